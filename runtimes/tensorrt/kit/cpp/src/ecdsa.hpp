#pragma once

#include <filesystem>
#include <string_view>

namespace vggt_edge {

/// Whether a signature (DER) of some bytes is by the public key in a PEM file.
///
/// `KitError` for a file that holds no public key of P-256, P-384 or P-521, and where OpenSSL was not compiled in.
bool is_signed(const std::filesystem::path& key, std::string_view content, std::string_view signature);

}  // namespace vggt_edge
