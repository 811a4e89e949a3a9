// The messages and the window of the ROS 2 node; the node itself is only compiled.

#include "../../../../runtimes/tensorrt/kit/cpp/ros2/src/keyframes.hpp"
#include "../../../../runtimes/tensorrt/kit/cpp/ros2/src/messages.hpp"
#include "testing.hpp"

using namespace vggt_edge;
using namespace testing;

namespace {

Picture grey(std::uint8_t level) { return {{28, 14}, std::vector<std::uint8_t>(3 * 28 * 14, level)}; }

}  // namespace

TEST(the_window_slides_over_keyframes) {
    vggt_edge_ros::Keyframes keyframes(2, {28, 14}, 0.5);
    std::vector<float> input(2 * 3 * 28 * 14);
    EXPECT(keyframes.wants(10));
    keyframes.add(grey(51), 10);
    EXPECT(!keyframes.is_full() && !keyframes.wants(10.4) && keyframes.wants(10.5));
    keyframes.add(grey(102), 10.5);
    keyframes.add(grey(255), 11);
    keyframes.put(input.data());
    EXPECT(keyframes.is_full() && input.front() == 102 / 255.0f && input.back() == 1);
    EXPECT(keyframes.wants(3));  // the recording starts again
    EXPECT(!keyframes.is_full());
}

TEST(the_window_knows_what_is_white) {
    vggt_edge_ros::Keyframes keyframes(1, {28, 14}, 0.5, {Mode::pad, 14});
    keyframes.add({{20, 20}, std::vector<std::uint8_t>(3 * 20 * 20)}, 1);
    keyframes.add({{40, 40}, std::vector<std::uint8_t>(3 * 40 * 40)}, 2);
    EXPECT(keyframes.contents() == (std::vector<FrameArea>{{7, 0, 21, 14}}));
    std::vector<float> input(3 * 28 * 14);
    keyframes.put(input.data());
    EXPECT(input[6] == 1 && input[7] == 0 && input[20] == 0 && input[21] == 1);
}

TEST(images_become_pictures) {
    sensor_msgs::msg::Image image;
    image.width = 1, image.height = 2, image.step = 4, image.encoding = "bgr8";
    image.data = {1, 2, 3, 0, 4, 5, 6, 0};
    const auto picture = vggt_edge_ros::picture_of(image);
    EXPECT(picture && picture->pixels == std::vector<std::uint8_t>({3, 2, 1, 6, 5, 4}));
    image.data.pop_back();
    EXPECT(!vggt_edge_ros::picture_of(image));
    image.encoding = "mono8";
    EXPECT(!vggt_edge_ros::picture_of(image));
}

TEST(clouds_and_depth_hold_the_numbers) {
    const auto cloud = vggt_edge_ros::point_cloud({}, {1, 2, 3, 4, 5, 6}, {false, true});
    float values[3];
    std::memcpy(values, cloud.data.data(), sizeof values);
    EXPECT(cloud.width == 1 && cloud.data.size() == 12 && values[0] == 4 && values[2] == 6 && cloud.fields[2].offset == 8);
    const std::vector<float> depth{1, 2};
    const auto image = vggt_edge_ros::depth_image({}, depth.data(), {2, 1});
    EXPECT(image.encoding == "32FC1" && image.step == 8 && image.data.size() == 8);
    const auto info = vggt_edge_ros::camera_info({}, {10, 20, 1, 0.5}, {2, 1});
    EXPECT(info.k[2] == 0.5 && info.k[5] == 0 && info.p[0] == 10);
}

/// The quaternion that is published turns as the transpose of the extrinsics does, whatever its largest part is.
TEST(transforms_are_the_inverse_of_the_extrinsics) {
    for (const Json& each : cases("poses")) {
        for (const Camera& camera : decode_poses(floats(each.at("encoding")), {28, 14})) {
            const auto sent = vggt_edge_ros::transform({}, "camera", camera.extrinsics).transform;
            const auto& q = sent.rotation;
            std::vector<float> encoding{0, 0, 0, static_cast<float>(q.x), static_cast<float>(q.y), static_cast<float>(q.z),
                                        static_cast<float>(q.w), 1, 1};
            const Matrix3 turn = decode_poses(encoding, {28, 14})[0].extrinsics.rotation;
            for (std::size_t row = 0; row < 3; ++row) {
                for (std::size_t column = 0; column < 3; ++column) {
                    EXPECT(std::abs(turn[row][column] - camera.extrinsics.rotation[column][row]) < 1e-6);
                }
            }
            EXPECT(sent.translation.y == camera.extrinsics.center()[1]);
        }
    }
}
