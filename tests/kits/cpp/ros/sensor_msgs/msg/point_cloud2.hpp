#pragma once

#include <std_msgs/msg/header.hpp>
#include <vector>

namespace sensor_msgs::msg {
struct PointField {
    static constexpr std::uint8_t FLOAT32 = 7;
    std::string name;
    std::uint32_t offset = 0;
    std::uint8_t datatype = 0;
    std::uint32_t count = 0;
};
struct PointCloud2 {
    std_msgs::msg::Header header;
    std::uint32_t height = 0, width = 0;
    std::vector<PointField> fields;
    bool is_bigendian = false;
    std::uint32_t point_step = 0, row_step = 0;
    std::vector<std::uint8_t> data;
    bool is_dense = false;
};
}  // namespace sensor_msgs::msg
