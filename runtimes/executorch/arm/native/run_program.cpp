// Runs the method "forward" of a program once on a tensor of float32:
//   run_program PROGRAM INPUT OUTPUTS SIDE...
// INPUT: a file of raw values, of the shape SIDE... OUTPUTS: a folder that gets a file of raw values for each output,
// "0", "1" and so on. Linked with the library of the wheel, by the headers of the wheel.
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/platform_memory_allocator.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <numeric>
#include <string>
#include <vector>

namespace aten = executorch::aten;
namespace runtime = executorch::runtime;
using runtime::Error;

// Ends the process as it is: what libraries do at exit would need the Python that is not there.
[[noreturn]] static void fail(const std::string& what, Error error) {
  fprintf(stderr, "%s: error 0x%x\n", what.c_str(), static_cast<unsigned>(error));
  _exit(1);
}

template <typename T>
static T& checked(runtime::Result<T>& result, const char* what) {
  if (!result.ok()) fail(what, result.error());
  return *result;
}

static void check(Error error, const char* what) {
  if (error != Error::Ok) fail(what, error);
}

// Maps every segment by itself and unmaps it when it is freed, as Android's library does: a delegate that reads what
// it has freed crashes here as it does on a phone.
class SegmentLoader final : public runtime::DataLoader {
 public:
  explicit SegmentLoader(const char* path) : file_(open(path, O_RDONLY)) {
    struct stat about;
    if (file_ < 0 || fstat(file_, &about) < 0) fail(path, Error::AccessFailed);
    bytes_ = static_cast<size_t>(about.st_size);
  }

  runtime::Result<runtime::FreeableBuffer> load(size_t offset, size_t bytes, const SegmentInfo&) const override {
    if (bytes == 0) return runtime::FreeableBuffer(nullptr, 0, nullptr);
    const size_t before = offset % static_cast<size_t>(getpagesize());
    void* page = mmap(nullptr, before + bytes, PROT_READ, MAP_PRIVATE, file_, static_cast<off_t>(offset - before));
    if (page == MAP_FAILED) return Error::AccessFailed;
    return runtime::FreeableBuffer(static_cast<char*>(page) + before, bytes, &unmap, reinterpret_cast<void*>(before));
  }

  Error load_into(size_t offset, size_t bytes, const SegmentInfo&, void* buffer) const override {
    const ssize_t done = pread(file_, buffer, bytes, static_cast<off_t>(offset));
    return done == static_cast<ssize_t>(bytes) ? Error::Ok : Error::AccessFailed;
  }

  runtime::Result<size_t> size() const override { return bytes_; }

 private:
  static void unmap(void* before, void* data, size_t bytes) {
    const size_t skipped = reinterpret_cast<size_t>(before);
    munmap(static_cast<char*>(data) - skipped, bytes + skipped);
  }

  int file_;
  size_t bytes_ = 0;
};

// A contiguous tensor of float32 that holds its values.
class Input {
 public:
  Input(const char* path, std::vector<aten::SizesType> sides)
      : sides_(std::move(sides)), order_(sides_.size()), strides_(sides_.size()) {
    std::iota(order_.begin(), order_.end(), 0);
    size_t count = 1;
    for (size_t i = sides_.size(); i-- > 0; count *= static_cast<size_t>(sides_[i])) {
      strides_[i] = static_cast<aten::StridesType>(count);
    }
    values_.resize(count);
    std::ifstream file(path, std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(values_.data()), static_cast<std::streamsize>(count * sizeof(float)))) {
      fail(path, Error::AccessFailed);
    }
  }

  aten::TensorImpl tensor() {
    return aten::TensorImpl(aten::ScalarType::Float, static_cast<ssize_t>(sides_.size()), sides_.data(),
                            values_.data(), order_.data(), strides_.data());
  }

 private:
  std::vector<aten::SizesType> sides_;
  std::vector<aten::DimOrderType> order_;
  std::vector<aten::StridesType> strides_;
  std::vector<float> values_;
};

static void write(const std::string& path, const aten::Tensor& tensor) {
  std::ofstream file(path, std::ios::binary);
  file.write(static_cast<const char*>(tensor.const_data_ptr()), static_cast<std::streamsize>(tensor.nbytes()));
  file.close();
  if (!file) fail(path, Error::AccessFailed);
}

int main(int count, char** arguments) {
  if (count < 5) return 2;
  runtime::runtime_init();
  SegmentLoader loader(arguments[1]);
  auto loaded = runtime::Program::load(&loader, runtime::Program::Verification::InternalConsistency);
  auto& program = checked(loaded, "the program cannot be loaded");
  auto described = program.method_meta("forward");
  auto& about = checked(described, "the program has no method forward");

  std::vector<std::vector<uint8_t>> planned;
  for (size_t i = 0; i < about.num_memory_planned_buffers(); ++i) {
    planned.emplace_back(static_cast<size_t>(*about.memory_planned_buffer_size(i)));
  }
  std::vector<runtime::Span<uint8_t>> spans;
  for (auto& buffer : planned) spans.emplace_back(buffer.data(), buffer.size());
  runtime::HierarchicalAllocator buffers({spans.data(), spans.size()});
  runtime::internal::PlatformMemoryAllocator lasting, temporary;
  runtime::MemoryManager memory(&lasting, &buffers, &temporary);
  auto prepared = program.load_method("forward", &memory);
  auto& method = checked(prepared, "the method cannot be loaded");

  std::vector<aten::SizesType> sides;
  for (int i = 4; i < count; ++i) sides.push_back(atoi(arguments[i]));
  Input input(arguments[2], sides);
  aten::TensorImpl tensor = input.tensor();
  check(method.set_input(runtime::EValue(aten::Tensor(&tensor)), 0), "the input does not fit");
  check(method.execute(), "the method failed");
  for (size_t i = 0; i < method.outputs_size(); ++i) {
    write(std::string(arguments[3]) + "/" + std::to_string(i), method.get_output(i).toTensor());
  }
  _exit(0);
}
