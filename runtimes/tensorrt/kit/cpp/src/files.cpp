#include "vggt_edge/files.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <sys/stat.h>
#include <unistd.h>

#include "vggt_edge/error.hpp"

namespace vggt_edge {

namespace {

/// Closes a file when it goes out of scope.
class Descriptor {
public:
    explicit Descriptor(int number) : number_(number) {}
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    ~Descriptor() {
        if (number_ >= 0) ::close(number_);
    }
    int number() const { return number_; }

private:
    int number_;
};

KitError cannot_write(const std::filesystem::path& path) {
    return KitError(Exit::resources, "cannot write " + path.string() + ": " + std::strerror(errno),
                    "free some space, or choose another place");
}

bool write_all(int file, std::string_view content) {
    while (!content.empty()) {
        const ssize_t written = ::write(file, content.data(), content.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        content.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

}  // namespace

std::string read_file(const std::filesystem::path& path, std::size_t longest) {
    std::ifstream file(path, std::ios::binary);
    std::string content;
    while (file && content.size() <= longest) {
        char buffer[1 << 16];
        file.read(buffer, sizeof buffer);
        content.append(buffer, static_cast<std::size_t>(file.gcount()));
    }
    if (content.size() > longest) {
        throw KitError(Exit::usage, path.string() + " has more than " + std::to_string(longest) + " bytes", bundle_again);
    }
    if (!file.eof()) throw KitError(Exit::usage, "cannot read " + path.string(), bundle_again);
    return content;
}

void write_file(const std::filesystem::path& path, std::string_view content, unsigned mode) {
    const std::filesystem::path aside = path.string() + ".part";
    ::unlink(aside.c_str());
    const Descriptor file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode));
    if (file.number() < 0 || !write_all(file.number(), content) || ::rename(aside.c_str(), path.c_str()) != 0) {
        const KitError error = cannot_write(path);
        ::unlink(aside.c_str());
        throw error;
    }
}

bool is_plain_name(std::string_view name) {
    if (name.empty() || name == "." || name == "..") return false;
    for (const char each : name) {
        const auto code = static_cast<unsigned char>(each);
        if (each == '/' || each == '\\' || code < 0x20 || code == 0x7f) return false;
    }
    return true;
}

}  // namespace vggt_edge
