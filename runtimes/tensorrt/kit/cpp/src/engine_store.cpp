#include "vggt_edge/engine_store.hpp"

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vggt_edge/files.hpp"
#include "vggt_edge/sha256.hpp"

namespace vggt_edge {

namespace {

constexpr std::size_t key_bytes = 32;
constexpr std::size_t longest_record = 1 << 16;
constexpr std::size_t longest_engine = std::size_t{1} << 36;

/// What a stored engine stands for: graph and runtime. Engines of other graphs or versions lie beside it.
std::string identity(const Kit& kit, const std::string& runtime) {
    std::string text = "runtime " + runtime + "\n";
    for (const auto& [name, digest] : kit.files) {
        if (name == kit.model || name == kit.model + ".data") text += digest + " " + name + "\n";
    }
    return text;
}

KitError unsafe(const std::filesystem::path& path, const std::string& why) {
    return KitError(Exit::usage, path.string() + " cannot keep engines: " + why,
                    "choose a folder that belongs to this user alone (chmod 700), or remove this one");
}

/// Refuses what others could have planted or changed. kind: S_IFDIR or S_IFREG.
void check_private(const std::filesystem::path& path, mode_t kind) {
    struct stat state {};
    if (::lstat(path.c_str(), &state) != 0) throw unsafe(path, std::strerror(errno));
    if ((state.st_mode & S_IFMT) != kind) throw unsafe(path, "it is a link, or something else than expected");
    if (state.st_uid != ::geteuid()) throw unsafe(path, "it belongs to another user");
    if ((state.st_mode & (S_IRWXG | S_IRWXO)) != 0) throw unsafe(path, "other users may open it");
}

std::string random_bytes(std::size_t count) {
    const int file = ::open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    std::string bytes(count, '\0');
    const ssize_t taken = file < 0 ? -1 : ::read(file, bytes.data(), bytes.size());
    if (file >= 0) ::close(file);
    if (taken != static_cast<ssize_t>(count)) {
        throw KitError(Exit::resources, "the system gives no random numbers", "check /dev/urandom");
    }
    return bytes;
}

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? "" : value;
}

}  // namespace

EngineStore::EngineStore(std::filesystem::path folder) : folder_(std::move(folder)) {
    std::error_code failed;
    if (!folder_.parent_path().empty()) std::filesystem::create_directories(folder_.parent_path(), failed);
    if (::mkdir(folder_.c_str(), 0700) != 0 && errno != EEXIST) throw unsafe(folder_, std::strerror(errno));
    check_private(folder_, S_IFDIR);
    const std::filesystem::path key = folder_ / "engine.key";
    struct stat state {};
    if (::lstat(key.c_str(), &state) != 0) write_file(key, random_bytes(key_bytes), 0600);
    check_private(key, S_IFREG);
    key_ = read_file(key, key_bytes);
    if (key_.size() != key_bytes) throw unsafe(key, "it is no key of this kit");
}

std::filesystem::path EngineStore::default_folder() {
    const std::string systemd = environment("STATE_DIRECTORY"), state = environment("XDG_STATE_HOME");
    if (!systemd.empty()) return std::filesystem::path(systemd.substr(0, systemd.find(':'))) / "engines";
    if (!state.empty()) return std::filesystem::path(state) / "vggt-edge";
    const std::string home = environment("HOME");
    if (home.empty()) {
        throw KitError(Exit::usage, "no folder for engines: HOME and STATE_DIRECTORY are not set", "pass --store FOLDER");
    }
    return std::filesystem::path(home) / ".local/state/vggt-edge";
}

std::optional<std::string> EngineStore::load(const Kit& kit, const std::string& runtime) const {
    const std::filesystem::path engine = path_of(kit, runtime, ".engine"), note = path_of(kit, runtime, ".record");
    if (!std::filesystem::is_regular_file(engine) || !std::filesystem::is_regular_file(note)) return std::nullopt;
    // What is hashed are the bytes that will be deserialized, not the file, which may change in between.
    std::string bytes = read_file(engine, longest_engine);
    const std::string wanted = record(kit, runtime, sha256_of(bytes));
    if (!same_secret(read_file(note, longest_record), wanted)) return std::nullopt;
    return bytes;
}

void EngineStore::save(const Kit& kit, const std::string& runtime, const std::string& engine) const {
    write_file(path_of(kit, runtime, ".engine"), engine, 0600);
    write_file(path_of(kit, runtime, ".record"), record(kit, runtime, sha256_of(engine)), 0600);
}

std::string EngineStore::record(const Kit& kit, const std::string& runtime, const std::string& engine_digest) const {
    const std::string text = "vggt-edge engine 1\nengine " + engine_digest + "\n" + identity(kit, runtime);
    return text + "hmac " + hmac_sha256(key_, text) + "\n";
}

std::filesystem::path EngineStore::path_of(const Kit& kit, const std::string& runtime, const char* suffix) const {
    return folder_ / (sha256_of(identity(kit, runtime)) + suffix);
}

}  // namespace vggt_edge
