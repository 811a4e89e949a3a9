#pragma once

#include <geometry_msgs/msg/transform_stamped.hpp>

namespace tf2_ros {
class TransformBroadcaster {
public:
    template <class Node>
    explicit TransformBroadcaster(Node&&) {}
    void sendTransform(const geometry_msgs::msg::TransformStamped&) {}
};
}  // namespace tf2_ros
