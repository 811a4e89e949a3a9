// A lifecycle node around the engine. It has never run: it was compiled against stand-ins of ROS 2.

#include <chrono>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>

#include <rclcpp/rclcpp.hpp>
#include <rclcpp_lifecycle/lifecycle_node.hpp>
#include <tf2_ros/transform_broadcaster.h>

#include "keyframes.hpp"
#include "messages.hpp"
#include "vggt_edge/engine.hpp"
#include "vggt_edge/points.hpp"

namespace vggt_edge_ros {

using namespace vggt_edge;
using Return = rclcpp_lifecycle::node_interfaces::LifecycleNodeInterface::CallbackReturn;
using State = rclcpp_lifecycle::State;
using std::placeholders::_1;

/// Predicts from a window of keyframes, while images come in. One prediction at a time; the newest window counts.
class Reconstructor : public rclcpp_lifecycle::LifecycleNode {
public:
    Reconstructor() : rclcpp_lifecycle::LifecycleNode("vggt_reconstructor") {
        declare_parameter("folder", std::string());
        declare_parameter("store", std::string());
        declare_parameter("keyframe_interval_s", 0.5);
        declare_parameter("points_share", 0.5);
        declare_parameter("window_frame", std::string("vggt_window"));
        declare_parameter("camera_frame", std::string("vggt_camera"));
    }

    /// Loads the engine, or builds it, which takes minutes.
    Return on_configure(const State&) override {
        try {
            const std::filesystem::path store = get_parameter("store").as_string();
            const std::filesystem::path folder = get_parameter("folder").as_string();
            engine_.emplace(open_engine(folder, EngineStore(store.empty() ? EngineStore::default_folder() : store)));
            const Shape& shape = engine_->inputs().at(0).shape;
            if (engine_->inputs().size() != 1 || shape.size() != 5) {
                throw KitError(Exit::lowering, "the engine takes no images of the shape (1, S, 3, H, W)");
            }
            pose_ = output("pose_enc");
            depth_ = output("depth");
            size_ = {static_cast<int>(shape[4]), static_cast<int>(shape[3])};
            const double interval = get_parameter("keyframe_interval_s").as_double();
            const Kit kit = read_kit(folder);
            centers_ = kit.pixel_centers;
            keyframes_.emplace(static_cast<std::size_t>(shape[1]), size_, interval, kit.preprocess);
        } catch (const std::exception& error) {
            RCLCPP_ERROR(get_logger(), "%s", error.what());
            return Return::FAILURE;
        }
        cloud_publisher_ = create_publisher<sensor_msgs::msg::PointCloud2>("points", rclcpp::SensorDataQoS());
        depth_publisher_ = create_publisher<sensor_msgs::msg::Image>("depth", rclcpp::SensorDataQoS());
        info_publisher_ = create_publisher<sensor_msgs::msg::CameraInfo>("camera_info", rclcpp::SensorDataQoS());
        broadcaster_ = std::make_unique<tf2_ros::TransformBroadcaster>(*this);
        return Return::SUCCESS;
    }

    Return on_activate(const State&) override {
        cloud_publisher_->on_activate();
        depth_publisher_->on_activate();
        info_publisher_->on_activate();
        subscription_ = create_subscription<sensor_msgs::msg::Image>(
            "image", rclcpp::SensorDataQoS(), std::bind(&Reconstructor::on_image, this, _1));
        timer_ = create_wall_timer(std::chrono::milliseconds(5), std::bind(&Reconstructor::on_time, this));
        return Return::SUCCESS;
    }

    Return on_deactivate(const State&) override {
        timer_.reset();
        subscription_.reset();
        if (running_) guarded([this] { engine_->wait(); });
        running_.reset();
        keyframes_->clear();
        cloud_publisher_->on_deactivate();
        depth_publisher_->on_deactivate();
        info_publisher_->on_deactivate();
        return Return::SUCCESS;
    }

    Return on_cleanup(const State&) override {
        release();
        return Return::SUCCESS;
    }

    Return on_shutdown(const State&) override {
        release();
        return Return::SUCCESS;
    }

private:
    void release() {
        timer_.reset();
        subscription_.reset();
        running_.reset();
        keyframes_.reset();
        engine_.reset();
        cloud_publisher_.reset();
        depth_publisher_.reset();
        info_publisher_.reset();
        broadcaster_.reset();
    }

    std::size_t output(const std::string& name) const {
        for (std::size_t index = 0; index < engine_->outputs().size(); ++index) {
            if (engine_->outputs()[index].name == name) return index;
        }
        throw KitError(Exit::lowering, "the engine has no output " + name, "export with --outputs camera,depth");
    }

    /// Runs something that may throw: a message, and the node goes on.
    template <class Action>
    void guarded(Action action) {
        try {
            action();
        } catch (const std::exception& error) {
            running_.reset();
            RCLCPP_ERROR(get_logger(), "%s", error.what());
        }
    }

    void on_image(const sensor_msgs::msg::Image& image) {
        const double time_s = rclcpp::Time(image.header.stamp).seconds();
        if (!keyframes_->wants(time_s)) return;
        const std::optional<Picture> picture = picture_of(image);
        if (!picture) {
            RCLCPP_ERROR_ONCE(get_logger(), "images of the encoding %s are not taken, only rgb8 and bgr8", image.encoding.c_str());
            return;
        }
        guarded([&] {
            keyframes_->add(*picture, time_s);
            newest_ = image.header;
            is_waiting_ = true;
            start();
        });
    }

    /// Begins a prediction with the newest window, if none is running.
    void start() {
        if (running_ || !is_waiting_ || !keyframes_->is_full()) return;
        keyframes_->put(engine_->input(0));
        contents_ = keyframes_->contents();
        engine_->submit();
        running_ = newest_;
        is_waiting_ = false;
    }

    void on_time() {
        guarded([this] {
            if (!running_ || !engine_->is_done()) return;
            publish(*running_);
            running_.reset();
            start();
        });
    }

    std::vector<float> values(std::size_t index) const {
        const float* from = engine_->output(index);
        return {from, from + engine_->outputs()[index].count};
    }

    void publish(const std_msgs::msg::Header& newest) {
        std::vector<float> depth = values(depth_);
        const std::vector<Camera> cameras = decode_poses(values(pose_), size_);
        std::vector<std::vector<float>> confidences;
        for (std::size_t index = 0; index < engine_->outputs().size(); ++index) {
            if (engine_->outputs()[index].name == "depth_conf") confidences.push_back(values(index));
        }
        const std::vector<bool> shown = shown_pixels(contents_, size_);
        std::vector<bool> keep = shown;
        const double share = get_parameter("points_share").as_double();
        if (!confidences.empty()) keep = confident_pixels(confidences, share, shown);
        std_msgs::msg::Header window = newest, camera = newest;
        window.frame_id = get_parameter("window_frame").as_string();
        camera.frame_id = get_parameter("camera_frame").as_string();
        broadcaster_->sendTransform(transform(window, camera.frame_id, cameras.back().extrinsics));
        cloud_publisher_->publish(point_cloud(window, unproject(depth, cameras, size_, centers_), keep));
        // What `crop` or `pad` filled up with white has no depth.
        for (std::size_t index = 0; index < depth.size(); ++index) {
            if (!shown[index]) depth[index] = std::numeric_limits<float>::quiet_NaN();
        }
        const float* last = depth.data() + (cameras.size() - 1) * size_.pixel_count();
        depth_publisher_->publish(depth_image(camera, last, size_));
        info_publisher_->publish(camera_info(camera, cameras.back().intrinsics, size_));
    }

    std::optional<Engine> engine_;
    std::optional<Keyframes> keyframes_;
    FrameSize size_;
    PixelCenters centers_ = PixelCenters::half;
    std::vector<FrameArea> contents_;  // of the prediction that is running
    std::size_t pose_ = 0, depth_ = 0;
    std_msgs::msg::Header newest_;
    bool is_waiting_ = false;
    std::optional<std_msgs::msg::Header> running_;  // of the newest image of the prediction that is running
    rclcpp::Subscription<sensor_msgs::msg::Image>::SharedPtr subscription_;
    rclcpp::TimerBase::SharedPtr timer_;
    rclcpp_lifecycle::LifecyclePublisher<sensor_msgs::msg::PointCloud2>::SharedPtr cloud_publisher_;
    rclcpp_lifecycle::LifecyclePublisher<sensor_msgs::msg::Image>::SharedPtr depth_publisher_;
    rclcpp_lifecycle::LifecyclePublisher<sensor_msgs::msg::CameraInfo>::SharedPtr info_publisher_;
    std::unique_ptr<tf2_ros::TransformBroadcaster> broadcaster_;
};

}  // namespace vggt_edge_ros

int main(int count, char** arguments) {
    rclcpp::init(count, arguments);
    // One thread: the engine is for one thread at a time.
    rclcpp::spin(std::make_shared<vggt_edge_ros::Reconstructor>()->get_node_base_interface());
    rclcpp::shutdown();
    return 0;
}
