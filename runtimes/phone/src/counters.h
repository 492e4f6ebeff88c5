// What Linux says about this process and the machine, named and valued as benchmarks/counters.py has it.
#pragma once

#include <string>
#include <thread>
#include <vector>

#include "stream.h"

namespace qwen_edge {

// Look at each source of each kind ("memory", "thermal", "frequency", "battery", "cpu") once.
void sample(Recorder& recorder, const std::vector<std::string>& kinds);

// Looks every `interval_ms` from a thread of its own until it is destroyed.
class Sampler {
 public:
  Sampler(Recorder& recorder, std::vector<std::string> kinds, int64_t interval_ms);
  ~Sampler();
  Sampler(const Sampler&) = delete;
  Sampler& operator=(const Sampler&) = delete;

 private:
  std::jthread thread_;
};

// Fast cores that this process may use, counted as runtimes/device.py counts them.
int default_threads();

// The CPUs that this process may run on, and confining it to some of them; `confine` throws where the kernel refuses.
std::vector<int> affinity();
void confine(const std::vector<int>& cpus);

// Forget the cached pages of some files, and say in a sample what stayed.
void drop_page_cache(Recorder& recorder, const std::vector<std::string>& files);

}  // namespace qwen_edge
