#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace vggt_edge {

/// Whether the bytes are UTF-8: shortest forms, no surrogates, nothing above U+10FFFF, nothing cut off.
bool is_utf8(std::string_view text);

/// The text with U+FFFD in place of every byte that is part of no character.
std::string valid_utf8(std::string_view text);

void append_utf8(std::string& text, std::uint32_t code);

}  // namespace vggt_edge
