#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace vggt_edge {

/// The bytes of a file of at most `longest` bytes; `KitError` for one that is missing or longer.
std::string read_file(const std::filesystem::path& path, std::size_t longest);

/// Writes aside and renames, so that nobody ever reads half a file. A link that lies there already is not followed.
///
/// mode: permissions of the file. `KitError` with `Exit::resources` where that fails.
void write_file(const std::filesystem::path& path, std::string_view content, unsigned mode = 0644);

/// Whether a file name stays in its folder on every system.
bool is_plain_name(std::string_view name);

}  // namespace vggt_edge
