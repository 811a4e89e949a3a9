#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "vggt_edge/kit.hpp"

namespace vggt_edge {

/// Engines that this user of this device has built, kept for the next start.
///
/// An engine is native code: whoever can plant one runs code as the app. So a stored engine is used only if its record
/// was signed with a key that lies in the store, and the store belongs to this user and nobody else can open it. The
/// record names the digest of the engine, those of the graph's files, TensorRT's version and the GPU. A folder that was
/// copied from elsewhere has another key, or none.
class EngineStore {
public:
    /// The store in a folder, which is made if it is missing. `KitError` where it belongs to another user, where others
    /// can write into it or read its key, or where it is a link.
    explicit EngineStore(std::filesystem::path folder);

    /// `$STATE_DIRECTORY` (systemd), else `$XDG_STATE_HOME/vggt-edge`, else `~/.local/state/vggt-edge`.
    static std::filesystem::path default_folder();

    /// The bytes of the engine that this store has for the files of a kit and a runtime; none where it has none, or
    /// where record or bytes are not those that were stored.
    ///
    /// runtime: everything that an engine depends on beside the graph, such as TensorRT's version and the GPU.
    std::optional<std::string> load(const Kit& kit, const std::string& runtime) const;

    /// Keeps an engine that was built from the verified files of a kit.
    void save(const Kit& kit, const std::string& runtime, const std::string& engine) const;

private:
    std::string record(const Kit& kit, const std::string& runtime, const std::string& engine_digest) const;
    std::filesystem::path path_of(const Kit& kit, const std::string& runtime, const char* suffix) const;

    std::filesystem::path folder_;
    std::string key_;
};

}  // namespace vggt_edge
