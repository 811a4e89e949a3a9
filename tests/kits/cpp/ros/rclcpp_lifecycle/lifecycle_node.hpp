// See std_msgs/msg/header.hpp.
#pragma once

#include <map>
#include <rclcpp/rclcpp.hpp>

namespace rclcpp_lifecycle {

struct State {};

namespace node_interfaces {
class LifecycleNodeInterface {
public:
    enum class CallbackReturn { SUCCESS, FAILURE, ERROR };
    virtual ~LifecycleNodeInterface() = default;
    virtual CallbackReturn on_configure(const State&) = 0;
    virtual CallbackReturn on_cleanup(const State&) = 0;
    virtual CallbackReturn on_shutdown(const State&) = 0;
    virtual CallbackReturn on_activate(const State&) = 0;
    virtual CallbackReturn on_deactivate(const State&) = 0;
};
}  // namespace node_interfaces

template <class Message>
class LifecyclePublisher {
public:
    using SharedPtr = std::shared_ptr<LifecyclePublisher>;
    void on_activate() {}
    void on_deactivate() {}
    void publish(const Message&) {}
};

class LifecycleNode : public node_interfaces::LifecycleNodeInterface {
public:
    explicit LifecycleNode(const std::string&) {}

    template <class Value>
    void declare_parameter(const std::string& name, const Value& value) {
        parameters_.emplace(name, value);
    }
    rclcpp::Parameter get_parameter(const std::string& name) const { return parameters_.at(name); }
    rclcpp::Logger get_logger() const { return {}; }
    rclcpp::node_interfaces::NodeBaseInterface::SharedPtr get_node_base_interface() { return nullptr; }

    template <class Message>
    std::shared_ptr<LifecyclePublisher<Message>> create_publisher(const std::string&, const rclcpp::SensorDataQoS&) {
        return std::make_shared<LifecyclePublisher<Message>>();
    }
    template <class Message>
    std::shared_ptr<rclcpp::Subscription<Message>> create_subscription(const std::string&, const rclcpp::SensorDataQoS&,
                                                                       std::function<void(const Message&)>) {
        return std::make_shared<rclcpp::Subscription<Message>>();
    }
    rclcpp::TimerBase::SharedPtr create_wall_timer(std::chrono::milliseconds, std::function<void()>) {
        return std::make_shared<rclcpp::TimerBase>();
    }

private:
    std::map<std::string, rclcpp::Parameter> parameters_;
};

}  // namespace rclcpp_lifecycle
