// One sequence in one runtime; the runner is built for one of them (onnxruntime.cpp or executorch.cpp).
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "job.h"

namespace qwen_edge {

class Model {
 public:
  virtual ~Model() = default;
  // Append 1 to `prefill_chunk` tokens; the logits after the last one, valid until the next call.
  virtual std::span<const float> forward(std::span<const int64_t> tokens, int64_t position) = 0;
  // Forget the sequence.
  virtual void reset() = 0;
};

// The runtime this runner was built for, as manifests call it, and its version: "onnxruntime", "1.31.1".
std::string runtime_name();
std::string runtime_version();

// Open the artifact; throws std::runtime_error with the runtime's own words.
std::unique_ptr<Model> open_model(const Artifact& artifact, int threads);

}  // namespace qwen_edge
