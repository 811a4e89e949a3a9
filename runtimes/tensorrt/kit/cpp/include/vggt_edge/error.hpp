#pragma once

#include <stdexcept>
#include <string>

namespace vggt_edge {

/// Exit codes of the kit's programs; the same as those of `build_and_verify.py`.
enum class Exit : int { ok = 0, usage = 2, toolchain = 3, accuracy = 4, lowering = 6, resources = 7 };

/// Something that the caller has to know: what happened, and what to do next.
class KitError : public std::runtime_error {
public:
    KitError(Exit code, const std::string& what, std::string remedy = "");

    /// The exit code of a program that ends with this error.
    Exit code() const { return code_; }

    /// What to do next; may be empty.
    const std::string& remedy() const { return remedy_; }

private:
    Exit code_;
    std::string remedy_;
};

/// The remedy for files that do not belong together.
extern const char* const bundle_again;

}  // namespace vggt_edge
