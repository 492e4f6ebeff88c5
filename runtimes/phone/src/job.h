// What the runner is told: the artifact's manifest (runtimes/manifest.schema.json) and the cases (benchmarks/cases.py).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qwen_edge {

struct StateTensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  int64_t bytes = 0;
  std::string input_name, output_name;
  bool grows = false;  // one entry a token: what lies beyond the position is never read, so it needs no clearing
};

struct Artifact {
  std::string directory, model_file, backend, runtime;
  int64_t context_length = 0, prefill_chunk = 0, vocab_size = 0;
  std::vector<StateTensor> state;
  std::vector<std::string> files;  // full paths
};

struct Case {
  std::string name, kind;
  std::vector<int64_t> prompt;
  int64_t new_tokens = 0, warm_ups = 0, repeats = 1;
  std::optional<int64_t> duration_ms, sample_interval_ms;
  int64_t idle_ms = 0;
  bool drop_page_cache = false;
  std::vector<std::string> samples;
};

struct Job {
  std::optional<int> threads;
  std::optional<std::vector<int>> affinity;
  std::vector<Case> cases;
};

// Both throw std::runtime_error with the file's name and what is wrong with it.
Artifact read_artifact(const std::string& directory);
Job read_job(const std::string& place);

}  // namespace qwen_edge
