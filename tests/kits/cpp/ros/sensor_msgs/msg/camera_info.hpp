#pragma once

#include <array>
#include <std_msgs/msg/header.hpp>
#include <vector>

namespace sensor_msgs::msg {
struct CameraInfo {
    std_msgs::msg::Header header;
    std::uint32_t height = 0, width = 0;
    std::string distortion_model;
    std::vector<double> d;
    std::array<double, 9> k{}, r{};
    std::array<double, 12> p{};
};
}  // namespace sensor_msgs::msg
