// Programs on the ExecuTorch runtime inside PyPI's wheel, for WheelProgram.kt. Linked against the wheel's own library.
//
// The file is mapped segment by segment and unmapped when the runtime frees a segment, as on a device: what a delegate
// reads after it has freed it ends the process here too.
#include <executorch/extension/threadpool/threadpool.h>
#include <executorch/runtime/executor/method.h>
#include <executorch/runtime/executor/platform_memory_allocator.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/runtime.h>
#include <fcntl.h>
#include <jni.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace rt = executorch::runtime;
namespace aten = executorch::aten;

namespace {

struct Failure {
  rt::Error code;
  std::string what;
};

void check(rt::Error code, const char* what) {
  if (code != rt::Error::Ok) throw Failure{code, what};
}

class MappedFile final : public rt::DataLoader {
 public:
  explicit MappedFile(const char* path) : file_(::open(path, O_RDONLY)) {
    struct stat about {};
    if (file_ < 0 || fstat(file_, &about) != 0) throw Failure{rt::Error::AccessFailed, "cannot open the file"};
    size_ = static_cast<size_t>(about.st_size);
  }
  ~MappedFile() override { ::close(file_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  rt::Result<rt::FreeableBuffer> load(size_t offset, size_t size, const SegmentInfo&) const override {
    if (!holds(offset, size)) return rt::Error::InvalidArgument;
    if (size == 0) return rt::FreeableBuffer(nullptr, 0, nullptr);
    const size_t skipped = offset % static_cast<size_t>(sysconf(_SC_PAGESIZE));
    void* start = mmap(nullptr, size + skipped, PROT_READ, MAP_PRIVATE, file_, static_cast<off_t>(offset - skipped));
    if (start == MAP_FAILED) return rt::Error::AccessFailed;
    return rt::FreeableBuffer(static_cast<char*>(start) + skipped, size, unmap, reinterpret_cast<void*>(skipped));
  }

  rt::Error load_into(size_t offset, size_t size, const SegmentInfo&, void* to) const override {
    if (!holds(offset, size)) return rt::Error::InvalidArgument;
    const auto read = pread(file_, to, size, static_cast<off_t>(offset));
    return read == static_cast<ssize_t>(size) ? rt::Error::Ok : rt::Error::AccessFailed;
  }

  rt::Result<size_t> size() const override { return size_; }

 private:
  bool holds(size_t offset, size_t size) const { return offset <= size_ && size <= size_ - offset; }

  static void unmap(void* context, void* data, size_t size) {
    const auto skipped = reinterpret_cast<size_t>(context);
    munmap(static_cast<char*>(data) - skipped, size + skipped);
  }

  int file_;
  size_t size_ = 0;
};

class Model {
 public:
  explicit Model(const char* path) : file_(path) {
    auto loaded = rt::Program::load(&file_, rt::Program::Verification::Minimal);
    check(loaded.error(), "cannot load the program");
    program_.emplace(std::move(*loaded));
  }

  rt::Error prepare() {
    if (method_) return rt::Error::Ok;
    auto meta = program_->method_meta("forward");
    if (!meta.ok()) return meta.error();
    for (size_t index = 0; index < meta->num_memory_planned_buffers(); ++index) {
      auto size = meta->memory_planned_buffer_size(index);
      if (!size.ok()) return size.error();
      planned_.emplace_back(static_cast<size_t>(*size));
    }
    for (auto& buffer : planned_) spans_.emplace_back(buffer.data(), buffer.size());
    planned_memory_.emplace(rt::Span<rt::Span<uint8_t>>(spans_.data(), spans_.size()));
    memory_.emplace(&for_method_, &*planned_memory_, &for_temporaries_);
    auto loaded = program_->load_method("forward", &*memory_);
    if (!loaded.ok()) return loaded.error();
    method_.emplace(std::move(*loaded));
    return rt::Error::Ok;
  }

  rt::Method& run(void* values, std::vector<aten::SizesType> sizes) {
    check(prepare(), "cannot load the method");
    const auto rank = sizes.size();
    std::vector<aten::DimOrderType> order(rank);
    std::vector<aten::StridesType> strides(rank, 1);
    for (size_t index = 0; index < rank; ++index) order[index] = static_cast<aten::DimOrderType>(index);
    for (size_t index = rank - 1; index > 0; --index) strides[index - 1] = strides[index] * sizes[index];
    aten::TensorImpl input(
        aten::ScalarType::Float, static_cast<ssize_t>(rank), sizes.data(), values, order.data(), strides.data());
    check(method_->set_input(rt::EValue(aten::Tensor(&input)), 0), "the input does not fit");
    check(method_->execute(), "cannot execute the method");
    return *method_;
  }

 private:
  MappedFile file_;
  std::optional<rt::Program> program_;
  rt::internal::PlatformMemoryAllocator for_method_, for_temporaries_;
  std::vector<std::vector<uint8_t>> planned_;
  std::vector<rt::Span<uint8_t>> spans_;
  std::optional<rt::HierarchicalAllocator> planned_memory_;
  std::optional<rt::MemoryManager> memory_;
  std::optional<rt::Method> method_;
};

void raise(JNIEnv* env, const Failure& failure) {
  jclass type = env->FindClass("org/pytorch/executorch/ExecutorchRuntimeException");
  jmethodID make = env->GetMethodID(type, "<init>", "(ILjava/lang/String;)V");
  jstring what = env->NewStringUTF(failure.what.c_str());
  env->Throw(static_cast<jthrowable>(env->NewObject(type, make, static_cast<jint>(failure.code), what)));
}

Model* model_of(jlong handle) { return reinterpret_cast<Model*>(handle); }

}  // namespace

extern "C" {

JNIEXPORT jlong JNICALL
Java_org_pytorch_executorch_WheelProgram_open(JNIEnv* env, jclass, jstring path, jint threads) {
  rt::runtime_init();
  const char* name = env->GetStringUTFChars(path, nullptr);
  std::unique_ptr<Model> model;
  try {
    model = std::make_unique<Model>(name);
  } catch (const Failure& failure) {
    raise(env, failure);
  }
  env->ReleaseStringUTFChars(path, name);
  auto* pool = executorch::extension::threadpool::get_threadpool();
  if (model && pool && threads > 0) pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
  return reinterpret_cast<jlong>(model.release());
}

JNIEXPORT jint JNICALL Java_org_pytorch_executorch_WheelProgram_prepare(JNIEnv*, jclass, jlong handle) {
  return static_cast<jint>(model_of(handle)->prepare());
}

JNIEXPORT void JNICALL Java_org_pytorch_executorch_WheelProgram_release(JNIEnv*, jclass, jlong handle) {
  delete model_of(handle);
}

// Shape and values of each output in turn; the values lie in the program's own memory.
JNIEXPORT jobjectArray JNICALL
Java_org_pytorch_executorch_WheelProgram_run(JNIEnv* env, jclass, jlong handle, jobject values, jlongArray shape) {
  try {
    std::vector<jlong> sides(static_cast<size_t>(env->GetArrayLength(shape)));
    env->GetLongArrayRegion(shape, 0, static_cast<jsize>(sides.size()), sides.data());
    auto& method = model_of(handle)->run(env->GetDirectBufferAddress(values), {sides.begin(), sides.end()});
    const auto count = method.outputs_size();
    jclass object = env->FindClass("java/lang/Object");
    jobjectArray result = env->NewObjectArray(static_cast<jsize>(2 * count), object, nullptr);
    for (size_t index = 0; index < count; ++index) {
      const auto& value = method.get_output(index);
      if (!value.isTensor() || value.toTensor().scalar_type() != aten::ScalarType::Float) {
        throw Failure{rt::Error::InvalidType, "an output is no float tensor"};
      }
      const auto& tensor = value.toTensor();
      std::vector<jlong> sizes(tensor.sizes().begin(), tensor.sizes().end());
      jlongArray sizes_there = env->NewLongArray(static_cast<jsize>(sizes.size()));
      env->SetLongArrayRegion(sizes_there, 0, static_cast<jsize>(sizes.size()), sizes.data());
      jobject data = env->NewDirectByteBuffer(tensor.mutable_data_ptr(), static_cast<jlong>(tensor.nbytes()));
      env->SetObjectArrayElement(result, static_cast<jsize>(2 * index), sizes_there);
      env->SetObjectArrayElement(result, static_cast<jsize>(2 * index + 1), data);
    }
    return result;
  } catch (const Failure& failure) {
    raise(env, failure);
    return nullptr;
  }
}
}
