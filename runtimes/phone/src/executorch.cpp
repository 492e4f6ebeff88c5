// ExecuTorch through its Module: `forward(tokens, input_pos)` of a `.pte` that keeps its state inside and clears it when
// `input_pos` is 0, the contract of ExecuTorch's own text runner and of runtimes/executorch.py.
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/platform/platform.h>

#include <algorithm>
#include <cstdio>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "half.h"
#include "model.h"

#if __has_include(<executorch/extension/threadpool/threadpool.h>)
#include <executorch/extension/threadpool/threadpool.h>
#else
// the wheel's library has the pool, its headers do not; these two names are all that is used of it
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool
#endif

namespace qwen_edge {
namespace {

using executorch::aten::ScalarType;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::runtime::Error;

// Which operators are missing is said in the library's log and nowhere else: "Missing operator: [3] llama::custom_sdpa.out".
std::string missing_operators;

void log(et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t, const char* message, size_t length) {
  const std::string_view said(message, length);
  std::fprintf(stderr, "%c %.*s\n", static_cast<char>(level), static_cast<int>(said.size()), said.data());
  const size_t bracket = said.find("] ");
  if (!said.starts_with("Missing operator: [") || bracket == said.npos) return;
  if (!missing_operators.empty()) missing_operators += ", ";
  missing_operators += said.substr(bracket + 2);
}

void check(Error error, const std::string& what) {
  if (error == Error::Ok) return;
  const std::string missing = error == Error::OperatorMissing
                                  ? "; this build lacks an operator that the model uses (" + missing_operators +
                                        "), see runtimes/phone/README.md"
                                  : "";
  throw std::runtime_error("executorch could not " + what + ": " + executorch::runtime::to_string(error) + missing);
}

class ExecutorchModel : public Model {
 public:
  explicit ExecutorchModel(const Artifact& artifact)
      : artifact_(artifact), module_(artifact.model_file, Module::LoadMode::Mmap), ids_(artifact.prefill_chunk) {
    check(module_.load(), "open " + artifact.model_file);
    check(module_.load_method("forward"), "load 'forward' of " + artifact.model_file);
  }

  std::span<const float> forward(std::span<const int64_t> tokens, int64_t position) override {
    std::copy(tokens.begin(), tokens.end(), ids_.begin());
    position_ = position;
    const auto input = from_blob(ids_.data(), {1, static_cast<int>(tokens.size())}, ScalarType::Long);
    const auto start = from_blob(&position_, {1}, ScalarType::Long);
    const auto outputs = module_.forward({*input, *start});
    check(outputs.error(), "run " + std::to_string(tokens.size()) + " tokens after " + std::to_string(position));
    return last_row(outputs->at(0).toTensor());
  }

  void reset() override {}  // the model clears its state when it sees position 0

 private:
  std::span<const float> last_row(const executorch::aten::Tensor& logits) {
    const size_t size = static_cast<size_t>(artifact_.vocab_size), skipped = static_cast<size_t>(logits.numel()) - size;
    if (logits.scalar_type() == ScalarType::Float) return {logits.const_data_ptr<float>() + skipped, size};
    const auto* words = static_cast<const uint16_t*>(logits.const_data_ptr()) + skipped;
    const auto convert = logits.scalar_type() == ScalarType::Half ? from_half : from_bfloat16;
    if (logits.scalar_type() != ScalarType::Half && logits.scalar_type() != ScalarType::BFloat16) {
      throw std::runtime_error(artifact_.model_file + ": logits are of no floating type");
    }
    logits_.resize(size);
    for (size_t index = 0; index < size; ++index) logits_[index] = convert(words[index]);
    return logits_;
  }

  const Artifact artifact_;
  Module module_;
  std::vector<int64_t> ids_;
  int64_t position_ = 0;
  std::vector<float> logits_;
};

}  // namespace

std::string runtime_name() { return "executorch"; }

std::string runtime_version() { return QWEN_EDGE_EXECUTORCH_VERSION; }

std::unique_ptr<Model> open_model(const Artifact& artifact, int threads) {
  missing_operators.clear();
  executorch::runtime::register_pal(executorch::runtime::PalImpl::create(log, __FILE__));
  ::executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
  return std::make_unique<ExecutorchModel>(artifact);
}

}  // namespace qwen_edge
