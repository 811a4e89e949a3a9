#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace vggt_edge {

/// The parts of `model.sig` (OpenSSF Model Signing 1.0).
///
/// - content: the statement that is signed, as JSON.
/// - signature: ECDSA in DER.
struct Envelope {
    std::string content;
    std::string signature;
};

/// The files that a statement lists.
///
/// - files: sha256 by path in the bundle.
/// - release: the number that was signed with them; empty for none.
struct SignedFiles {
    std::map<std::string, std::string> files;
    std::optional<std::int64_t> release;
};

/// The parts of a `model.sig`; `JsonProblem` for a file of another kind. Nothing is checked.
Envelope parse_envelope(std::string_view text);

/// The files of a statement; `JsonProblem` for a statement of another kind.
SignedFiles parse_statement(std::string_view text);

/// Checks that the kit in a folder is what the holder of a key has signed. Do this before you load anything of it.
///
/// The signature is `model.sig` in the folder or above it. Every signed file of the folder has to be there, unchanged.
///
/// - key: a file with the public key (P-256, P-384 or P-521) as PEM.
/// - min_release: the smallest release to accept.
///
/// Returns the release. `KitError` for an unsigned folder, another key, an older release and other files; and, with
/// `Exit::toolchain`, where the library was compiled without OpenSSL.
std::optional<std::int64_t> check_signature(const std::filesystem::path& folder, const std::filesystem::path& key,
                                            std::optional<std::int64_t> min_release = std::nullopt);

}  // namespace vggt_edge
