// The event stream of benchmarks/stream_events.py: events wait in memory while anything is timed and are written, in the
// order of their times, between generations; the last line counts and hashes all lines before it.
#pragma once

#include <cstdint>
#include <fstream>
#include <mutex>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "sha256.h"

namespace qwen_edge {

using Json = nlohmann::ordered_json;

// The monotonic clock, which is CLOCK_MONOTONIC on Linux, in nanoseconds.
int64_t now_ns();

// One event with its time; what else it says is added by the caller.
Json event(const char* name, int64_t at_ns = now_ns());

class Recorder {
 public:
  // `first` is the stream line; it is written with the first batch, when it is known what runs.
  Recorder(const std::string& place, Json first);

  void emit(Json event);   // safe to call from any thread
  void flush();            // write what waits; throws where the file takes no more
  void end();              // write what waits, and the last line
  Json& first() { return first_; }

 private:
  void write(const Json& line, bool counted = true);

  std::ofstream file_;
  std::string place_;
  Json first_;
  bool begun_ = false;
  int64_t lines_ = 0;
  Sha256 hash_;
  std::mutex mutex_;
  std::vector<Json> waiting_;
};

}  // namespace qwen_edge
