#include "vggt_edge/error.hpp"

#include <utility>

namespace vggt_edge {

const char* const bundle_again = "copy the whole folder from the bundle again";

namespace {

std::string message(const std::string& what, const std::string& remedy) {
    return remedy.empty() ? what : what + "\n  next: " + remedy;
}

}  // namespace

KitError::KitError(Exit code, const std::string& what, std::string remedy)
    : std::runtime_error(message(what, remedy)), code_(code), remedy_(std::move(remedy)) {}

}  // namespace vggt_edge
