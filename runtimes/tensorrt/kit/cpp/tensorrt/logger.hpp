#pragma once

#include <NvInfer.h>

#include <string>
#include <vector>

namespace vggt_edge {

/// Says warnings and errors on stderr, and keeps the errors: only they tell that memory ran out during a build.
class Logger : public nvinfer1::ILogger {
public:
    void log(Severity severity, const nvinfer1::AsciiChar* message) noexcept override;

    /// Whether an error spoke of memory.
    bool ran_out_of_memory() const;

private:
    std::vector<std::string> errors_;
};

/// TensorRT keeps the logger of the first object that is made, so there is one for the whole process.
Logger& logger();

}  // namespace vggt_edge
