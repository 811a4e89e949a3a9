#pragma once

#include <optional>

#include "vggt_edge/json.hpp"

namespace vggt_edge {

/// The value as JSON; null where there is none.
template <class Value>
Json or_null(const std::optional<Value>& value) {
    return value ? Json(*value) : Json();
}

}  // namespace vggt_edge
