#include "vggt_edge/signature.hpp"

#include <cstdint>

#include "ecdsa.hpp"
#include "vggt_edge/error.hpp"
#include "vggt_edge/files.hpp"
#include "vggt_edge/json.hpp"
#include "vggt_edge/sha256.hpp"

namespace vggt_edge {

namespace {

namespace fs = std::filesystem;

const std::string signature_file = "model.sig", kit_file = "kit.json";
const std::string payload_type = "application/vnd.in-toto+json";
const std::string predicate_type = "https://model_signing/signature/v1.0";

KitError not_usable(const std::string& what) {
    return KitError(Exit::usage, what, "do not use this folder; get the bundle again from where it was made");
}

/// The bytes of a text in base64 (RFC 4648, section 4), of which there is only one reading.
std::string bytes_of(const std::string& base64) {
    static const std::string digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const std::size_t end = base64.find_last_not_of('=') + 1, padding = base64.size() - end;
    if (base64.size() % 4 != 0 || padding > 2) throw JsonProblem("a text is no base64");
    std::string result;
    std::uint32_t bits = 0;
    for (std::size_t index = 0; index < end; ++index) {
        const std::size_t digit = digits.find(base64[index]);
        if (digit == std::string::npos) throw JsonProblem("a text is no base64");
        bits = bits << 6 | static_cast<std::uint32_t>(digit);
        const unsigned spare = 6 - 2 * (index % 4);  // bits of this digit that belong to the next byte
        if (index % 4 != 0) result += static_cast<char>(bits >> spare & 255);
    }
    return result;
}

/// What the key signs: the content with its type and length in front (DSSE's pre-authentication encoding).
std::string to_sign(const std::string& content) {
    return "DSSEv1 " + std::to_string(payload_type.size()) + " " + payload_type + " " + std::to_string(content.size()) +
           " " + content;
}

std::optional<std::int64_t> release_of(const Json& predicate) {
    const Json* claims = predicate.find("vggt-edge");
    const Json* release = claims == nullptr ? nullptr : claims->find("release");
    if (release == nullptr || release->is_null()) return std::nullopt;
    if (!release->is_whole()) throw JsonProblem("release is no whole number");
    return release->whole();
}

/// The signature lies in the bundle, which is the folder above, or was copied into this one.
fs::path signature_of(const fs::path& folder) {
    std::error_code none;
    const fs::path above = fs::weakly_canonical(folder, none).parent_path();
    for (const fs::path& place : {folder / signature_file, above / signature_file}) {
        if (fs::is_regular_file(place, none)) return place;
    }
    throw KitError(Exit::usage, folder.string() + " is not signed: no " + signature_file + " there or above",
                   "copy " + signature_file + " of the bundle too");
}

/// The sha256 of a file; empty where there is none, or a link in its place.
std::string digest_of(const fs::path& path) {
    std::error_code none;
    return fs::is_regular_file(fs::symlink_status(path, none)) ? sha256_of_file(path) : "";
}

bool ends_with(const std::string& text, const std::string& end) {
    return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Which folder of the bundle this is, with a slash: its name may be another one here, but `kit.json` is the same.
std::string prefix_of(const fs::path& folder, const std::map<std::string, std::string>& files) {
    const std::string own = digest_of(folder / kit_file);
    for (const auto& [name, digest] : files) {
        if (digest == own && ends_with(name, "/" + kit_file)) return name.substr(0, name.size() - kit_file.size());
    }
    throw not_usable((folder / kit_file).string() + " is missing, or not the one that was signed");
}

void check_files(const fs::path& folder, const std::map<std::string, std::string>& files) {
    const std::string prefix = prefix_of(folder, files);
    for (const auto& [name, digest] : files) {
        if (name.rfind(prefix, 0) != 0) continue;
        const fs::path path = folder / name.substr(prefix.size());
        if (digest_of(path) != digest) {
            throw not_usable(path.string() + " is missing, or not the file that was signed");
        }
    }
}

SignedFiles signed_files(const fs::path& path, const fs::path& key) {
    try {
        const Envelope envelope = parse_envelope(read_file(path, longest_json));
        if (!is_signed(key, to_sign(envelope.content), envelope.signature)) {
            throw not_usable("the signature is not by the key " + key.string() + ", or has changed");
        }
        return parse_statement(envelope.content);
    } catch (const JsonProblem& problem) {
        throw not_usable("cannot use " + path.string() + ": " + problem.what());
    }
}

}  // namespace

Envelope parse_envelope(std::string_view text) {
    const Json file = parse_json(text);
    const Json& envelope = file.at("dsseEnvelope");
    const Json::List& signatures = envelope.at("signatures").list();
    if (envelope.at("payloadType").text() != payload_type || signatures.size() != 1) {
        throw JsonProblem("it is no signature of a bundle");
    }
    return {bytes_of(envelope.at("payload").text()), bytes_of(signatures[0].at("sig").text())};
}

SignedFiles parse_statement(std::string_view text) {
    const Json statement = parse_json(text);
    const Json& predicate = statement.at("predicate");
    if (statement.at("predicateType").text() != predicate_type ||
        predicate.at("serialization").at("method").text() != "files") {
        throw JsonProblem("it signs something else than files");
    }
    SignedFiles result{{}, release_of(predicate)};
    for (const Json& resource : predicate.at("resources").list()) {
        if (resource.at("algorithm").text() != "sha256") {
            throw JsonProblem("it signs files by other digests than sha256");
        }
        result.files[resource.at("name").text()] = resource.at("digest").text();
    }
    return result;
}

std::optional<std::int64_t> check_signature(const fs::path& folder, const fs::path& key,
                                            std::optional<std::int64_t> min_release) {
    const SignedFiles found = signed_files(signature_of(folder), key);
    if (min_release && (!found.release || *found.release < *min_release)) {
        const std::string release = found.release ? std::to_string(*found.release) : "none";
        throw KitError(Exit::usage, "the signed release is " + release + ", before " + std::to_string(*min_release),
                       "get a newer bundle");
    }
    check_files(folder, found.files);
    return found.release;
}

}  // namespace vggt_edge
