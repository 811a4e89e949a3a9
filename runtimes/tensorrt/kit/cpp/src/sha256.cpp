#include "vggt_edge/sha256.hpp"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <vector>

#include "vggt_edge/error.hpp"

namespace vggt_edge {

namespace {

constexpr std::size_t block_bytes = 64;

constexpr std::array<std::uint32_t, 64> constants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

constexpr std::uint32_t turned(std::uint32_t word, int bits) { return word >> bits | word << (32 - bits); }

}  // namespace

void Sha256::block(const std::uint8_t* bytes) {
    std::array<std::uint32_t, 64> words;
    for (std::size_t index = 0; index < 16; ++index) {
        const std::uint8_t* from = bytes + 4 * index;
        words[index] = std::uint32_t{from[0]} << 24 | std::uint32_t{from[1]} << 16 | std::uint32_t{from[2]} << 8 | from[3];
    }
    for (std::size_t index = 16; index < 64; ++index) {
        const std::uint32_t early = words[index - 15], late = words[index - 2];
        words[index] = words[index - 16] + words[index - 7] + (turned(early, 7) ^ turned(early, 18) ^ early >> 3) +
                       (turned(late, 17) ^ turned(late, 19) ^ late >> 10);
    }
    auto [a, b, c, d, e, f, g, h] = state_;
    for (std::size_t index = 0; index < 64; ++index) {
        const std::uint32_t first = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) +
                                    constants[index] + words[index];
        const std::uint32_t second =
            (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g;
        g = f;
        f = e;
        e = d + first;
        d = c;
        c = b;
        b = a;
        a = first + second;
    }
    const std::array<std::uint32_t, 8> after{a, b, c, d, e, f, g, h};
    for (std::size_t index = 0; index < 8; ++index) state_[index] += after[index];
}

Sha256& Sha256::add(const void* bytes, std::size_t count) {
    const auto* from = static_cast<const std::uint8_t*>(bytes);
    std::size_t filled = count_ % block_bytes;
    count_ += count;
    while (count > 0) {
        if (filled == 0 && count >= block_bytes) {
            block(from);
            from += block_bytes;
            count -= block_bytes;
            continue;
        }
        const std::size_t part = std::min(count, block_bytes - filled);
        std::memcpy(open_.data() + filled, from, part);
        from += part;
        count -= part;
        filled += part;
        if (filled == block_bytes) {
            block(open_.data());
            filled = 0;
        }
    }
    return *this;
}

Sha256::Digest Sha256::digest() {
    const std::uint64_t bits = count_ * 8;
    const std::uint8_t one = 0x80, zero = 0;
    add(&one, 1);
    while (count_ % block_bytes != 56) add(&zero, 1);
    std::array<std::uint8_t, 8> length;
    for (std::size_t index = 0; index < 8; ++index) length[index] = static_cast<std::uint8_t>(bits >> (56 - 8 * index));
    add(length.data(), length.size());
    Digest result;
    for (std::size_t index = 0; index < result.size(); ++index) {
        result[index] = static_cast<std::uint8_t>(state_[index / 4] >> (24 - 8 * (index % 4)));
    }
    return result;
}

std::string hex(const Sha256::Digest& digest) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string result;
    for (const std::uint8_t byte : digest) {
        result += digits[byte >> 4];
        result += digits[byte & 15];
    }
    return result;
}

std::string sha256_of(std::string_view bytes) { return hex(Sha256().add(bytes).digest()); }

std::string sha256_of_file(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    Sha256 sum;
    std::vector<char> buffer(1 << 20);
    while (file) {
        file.read(buffer.data(), static_cast<std::streamsize>(buffer.size()));
        sum.add(buffer.data(), static_cast<std::size_t>(file.gcount()));
    }
    if (!file.eof()) throw KitError(Exit::usage, "cannot read " + path.string(), bundle_again);
    return hex(sum.digest());
}

std::string hmac_sha256(std::string_view key, std::string_view text) {
    std::array<char, block_bytes> padded{};
    if (key.size() > block_bytes) {
        const Sha256::Digest shorter = Sha256().add(key).digest();
        std::copy(shorter.begin(), shorter.end(), padded.begin());
    } else {
        std::copy(key.begin(), key.end(), padded.begin());
    }
    const auto pad = [&](char mask) {
        std::string result(padded.begin(), padded.end());
        for (char& each : result) each = static_cast<char>(each ^ mask);
        return result;
    };
    const Sha256::Digest inner = Sha256().add(pad(0x36)).add(text).digest();
    return hex(Sha256().add(pad(0x5c)).add(inner.data(), inner.size()).digest());
}

bool same_secret(std::string_view first, std::string_view second) {
    if (first.size() != second.size()) return false;
    unsigned difference = 0;
    for (std::size_t index = 0; index < first.size(); ++index) {
        difference |= static_cast<unsigned char>(first[index]) ^ static_cast<unsigned char>(second[index]);
    }
    return difference == 0;
}

}  // namespace vggt_edge
