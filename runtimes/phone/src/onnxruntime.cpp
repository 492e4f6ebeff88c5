// ONNX Runtime through its C API, used as runtimes/onnxruntime.py uses it: all state is bound once and stays where it is;
// a cache is past and present at the same time, and the attention mask's length says how much of it is filled.
#include <onnxruntime_c_api.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>
#include <vector>

#include "half.h"
#include "model.h"

namespace qwen_edge {
namespace {

constexpr int64_t POSITION_ROWS = 3;  // time, height, width: equal for text

const OrtApi& api() {
  static const OrtApi* const found = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  if (!found) {
    throw std::runtime_error("onnxruntime " + runtime_version() + " has no C API " + std::to_string(ORT_API_VERSION) +
                             "; put a newer libonnxruntime.so beside the runner");
  }
  return *found;
}

void check(OrtStatus* status, const std::string& what) {
  if (!status) return;
  const std::string said = api().GetErrorMessage(status);
  api().ReleaseStatus(status);
  throw std::runtime_error("onnxruntime could not " + what + ": " + said);
}

ONNXTensorElementDataType element_type(const std::string& dtype) {
  if (dtype == "float32") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  if (dtype == "float16") return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
  if (dtype == "int8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT8;
  if (dtype == "uint8") return ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8;
  throw std::runtime_error("state of type " + dtype + " is not known here");
}

// Zeros whose pages are committed when they are first touched, so that a short chat stays small.
class Memory {
 public:
  explicit Memory(size_t bytes) : bytes_(bytes) {
    address_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address_ == MAP_FAILED) throw std::runtime_error("no memory for " + std::to_string(bytes) + " bytes of state");
  }
  ~Memory() {
    if (address_) munmap(address_, bytes_);
  }
  Memory(Memory&& other) noexcept : address_(std::exchange(other.address_, nullptr)), bytes_(other.bytes_) {}
  Memory(const Memory&) = delete;
  void* address() const { return address_; }
  size_t bytes() const { return bytes_; }

 private:
  void* address_;
  size_t bytes_;
};

class OnnxModel : public Model {
 public:
  OnnxModel(const Artifact& artifact, int threads)
      : artifact_(artifact),
        ids_(artifact.prefill_chunk),
        positions_(POSITION_ROWS * artifact.prefill_chunk),
        mask_(artifact.context_length, 1) {
    check(api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "qwen-edge", &environment_), "start");
    check(api().DisableTelemetryEvents(environment_), "switch telemetry off");
    open_session(threads);
    check(api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &cpu_), "describe memory");
    check(api().CreateIoBinding(session_, &binding_), "bind");
    bind_state();
    bind_logits();
  }

  ~OnnxModel() override {
    for (OrtValue* value : values_) api().ReleaseValue(value);
    api().ReleaseIoBinding(binding_);
    api().ReleaseMemoryInfo(cpu_);
    api().ReleaseSession(session_);
    api().ReleaseEnv(environment_);
  }

  std::span<const float> forward(std::span<const int64_t> tokens, int64_t position) override {
    const int64_t count = static_cast<int64_t>(tokens.size()), total = position + count;
    std::copy(tokens.begin(), tokens.end(), ids_.begin());
    for (int64_t row = 0; row < POSITION_ROWS; ++row) {
      for (int64_t index = 0; index < count; ++index) positions_[row * count + index] = position + index;
    }
    bind_tokens("attention_mask", mask_, {1, total});
    if (count != bound_) {  // from step to step only the mask grows
      bind_tokens("input_ids", ids_, {1, count});
      bind_tokens("position_ids", positions_, {POSITION_ROWS, 1, count});
      bound_ = count;
    }
    check(api().RunWithBinding(session_, nullptr, binding_),
          "run " + std::to_string(count) + " tokens after " + std::to_string(position));
    if (!half_.empty()) {
      for (size_t index = 0; index < half_.size(); ++index) logits_[index] = from_half(half_[index]);
    }
    return logits_;
  }

  void reset() override {
    for (size_t index = 0; index < memory_.size(); ++index) {
      // rows of a cache stay behind the mask until they are overwritten
      if (!artifact_.state[index].grows) std::memset(memory_[index].address(), 0, memory_[index].bytes());
    }
  }

 private:
  void open_session(int threads) {
    OrtSessionOptions* options = nullptr;
    check(api().CreateSessionOptions(&options), "start");
    check(api().SetIntraOpNumThreads(options, threads), "set threads");
    check(api().SetInterOpNumThreads(options, 1), "set threads");
    check(api().DisableMemPattern(options), "set options");  // it plans by shape, and every prefill is a new one
    OrtStatus* status = api().CreateSession(environment_, artifact_.model_file.c_str(), options, &session_);
    api().ReleaseSessionOptions(options);
    check(status, "open " + artifact_.model_file);
  }

  OrtValue* tensor(void* data, size_t bytes, const std::vector<int64_t>& shape, ONNXTensorElementDataType type) {
    OrtValue* value = nullptr;
    check(api().CreateTensorWithDataAsOrtValue(cpu_, data, bytes, shape.data(), shape.size(), type, &value), "make a tensor");
    return value;
  }

  void bind_state() {
    memory_.reserve(artifact_.state.size());
    for (const StateTensor& state : artifact_.state) {
      const Memory& memory = memory_.emplace_back(static_cast<size_t>(state.bytes));
      OrtValue* value = tensor(memory.address(), memory.bytes(), state.shape, element_type(state.dtype));
      values_.push_back(value);
      check(api().BindInput(binding_, state.input_name.c_str(), value), "bind " + state.input_name);
      check(api().BindOutput(binding_, state.output_name.c_str(), value), "bind " + state.output_name);
    }
  }

  void bind_logits() {
    const size_t size = static_cast<size_t>(artifact_.vocab_size);
    const std::vector<int64_t> shape{1, 1, artifact_.vocab_size};
    logits_.resize(size);
    const bool half = logits_type() == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    if (half) half_.resize(size);
    OrtValue* value = half ? tensor(half_.data(), 2 * size, shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16)
                           : tensor(logits_.data(), 4 * size, shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    values_.push_back(value);
    check(api().BindOutput(binding_, "logits", value), "bind logits");
  }

  ONNXTensorElementDataType logits_type() {
    OrtAllocator* allocator = nullptr;
    check(api().GetAllocatorWithDefaultOptions(&allocator), "allocate");
    size_t outputs = 0;
    check(api().SessionGetOutputCount(session_, &outputs), "count outputs");
    for (size_t index = 0; index < outputs; ++index) {
      char* name = nullptr;
      check(api().SessionGetOutputName(session_, index, allocator, &name), "name outputs");
      const bool found = std::strcmp(name, "logits") == 0;
      allocator->Free(allocator, name);
      if (found) return output_type(index);
    }
    throw std::runtime_error(artifact_.model_file + ": has no output 'logits'");
  }

  ONNXTensorElementDataType output_type(size_t index) {
    OrtTypeInfo* info = nullptr;
    const OrtTensorTypeAndShapeInfo* shape = nullptr;
    ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    check(api().SessionGetOutputTypeInfo(session_, index, &info), "look at logits");
    check(api().CastTypeInfoToTensorInfo(info, &shape), "look at logits");
    check(api().GetTensorElementType(shape, &type), "look at logits");
    api().ReleaseTypeInfo(info);
    return type;
  }

  void bind_tokens(const char* name, std::vector<int64_t>& data, const std::vector<int64_t>& shape) {
    size_t bytes = sizeof(int64_t);
    for (const int64_t size : shape) bytes *= static_cast<size_t>(size);
    OrtValue* value = tensor(data.data(), bytes, shape, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
    OrtStatus* status = api().BindInput(binding_, name, value);
    api().ReleaseValue(value);  // the binding holds on to it
    check(status, std::string("bind ") + name);
  }

  const Artifact artifact_;
  OrtEnv* environment_ = nullptr;
  OrtSession* session_ = nullptr;
  OrtMemoryInfo* cpu_ = nullptr;
  OrtIoBinding* binding_ = nullptr;
  std::vector<Memory> memory_;
  std::vector<OrtValue*> values_;
  std::vector<int64_t> ids_, positions_, mask_;
  std::vector<float> logits_;
  std::vector<uint16_t> half_;
  int64_t bound_ = 0;
};

}  // namespace

std::string runtime_name() { return "onnxruntime"; }

std::string runtime_version() { return OrtGetApiBase()->GetVersionString(); }

std::unique_ptr<Model> open_model(const Artifact& artifact, int threads) {
  return std::make_unique<OnnxModel>(artifact, threads);
}

}  // namespace qwen_edge
