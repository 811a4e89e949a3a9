// See std_msgs/msg/header.hpp.
#pragma once

#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <std_msgs/msg/header.hpp>
#include <string>

#define RCLCPP_ERROR(logger, ...) (static_cast<void>(logger), static_cast<void>(std::printf(__VA_ARGS__)))
#define RCLCPP_ERROR_ONCE(logger, ...) RCLCPP_ERROR(logger, __VA_ARGS__)

namespace rclcpp {

struct Logger {};
struct SensorDataQoS {};

class Time {
public:
    Time(const builtin_interfaces::msg::Time& time) : time_(time) {}
    double seconds() const { return time_.sec + 1e-9 * time_.nanosec; }

private:
    builtin_interfaces::msg::Time time_;
};

class Parameter {
public:
    Parameter(std::string text) : text_(std::move(text)) {}
    Parameter(double number) : number_(number) {}
    std::string as_string() const { return text_; }
    double as_double() const { return number_; }

private:
    std::string text_;
    double number_ = 0;
};

template <class Message>
class Subscription {
public:
    using SharedPtr = std::shared_ptr<Subscription>;
};

class TimerBase {
public:
    using SharedPtr = std::shared_ptr<TimerBase>;
};

namespace node_interfaces {
class NodeBaseInterface {
public:
    using SharedPtr = std::shared_ptr<NodeBaseInterface>;
};
}  // namespace node_interfaces

inline void init(int, char**) {}
inline void spin(const node_interfaces::NodeBaseInterface::SharedPtr&) {}
inline void shutdown() {}

}  // namespace rclcpp
