#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace vggt_edge {

/// SHA-256 of bytes that come piece by piece (FIPS 180-4).
class Sha256 {
public:
    using Digest = std::array<std::uint8_t, 32>;

    Sha256& add(const void* bytes, std::size_t count);
    Sha256& add(std::string_view text) { return add(text.data(), text.size()); }

    /// The digest of everything that was added. Nothing may be added afterwards.
    Digest digest();

private:
    void block(const std::uint8_t* bytes);

    std::array<std::uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    std::array<std::uint8_t, 64> open_{};
    std::uint64_t count_ = 0;
};

/// In 64 hexadecimal digits.
std::string hex(const Sha256::Digest& digest);

std::string sha256_of(std::string_view bytes);

/// The sha256 of a file; `KitError` where the file cannot be read.
std::string sha256_of_file(const std::filesystem::path& path);

/// The keyed digest of a text (HMAC, RFC 2104), in hexadecimal digits.
std::string hmac_sha256(std::string_view key, std::string_view text);

/// Whether two texts are the same, in a time that tells nothing about where they differ.
bool same_secret(std::string_view first, std::string_view second);

}  // namespace vggt_edge
