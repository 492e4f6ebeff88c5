#include "stream.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <time.h>
#include <utility>

namespace qwen_edge {

int64_t now_ns() {
  timespec moment{};
  clock_gettime(CLOCK_MONOTONIC, &moment);
  return int64_t{moment.tv_sec} * 1'000'000'000 + moment.tv_nsec;
}

Json event(const char* name, int64_t at_ns) { return Json{{"event", name}, {"at_ns", at_ns}}; }

Recorder::Recorder(const std::string& place, Json first) : file_(place, std::ios::binary), place_(place), first_(std::move(first)) {
  if (!file_) throw std::runtime_error(place + ": cannot be written: " + std::strerror(errno));
}

void Recorder::emit(Json event) {
  const std::lock_guard lock(mutex_);
  waiting_.push_back(std::move(event));
}

void Recorder::flush() {
  std::vector<Json> batch;
  {
    const std::lock_guard lock(mutex_);
    batch.swap(waiting_);
  }
  // whoever stamps an event may be overtaken by another thread before it is kept
  std::stable_sort(batch.begin(), batch.end(),
                   [](const Json& one, const Json& other) { return one["at_ns"] < other["at_ns"]; });
  if (!begun_) write(first_);
  begun_ = true;
  for (const Json& line : batch) write(line);
  file_.flush();
  if (!file_) throw std::runtime_error(place_ + ": " + std::strerror(errno ? errno : EIO));
}

void Recorder::end() {
  flush();
  write(Json{{"event", "end"}, {"lines", lines_}, {"sha256", hash_.hex()}}, false);
  file_.flush();
  if (!file_) throw std::runtime_error(place_ + ": " + std::strerror(errno ? errno : EIO));
}

void Recorder::write(const Json& line, bool counted) {
  // what is no UTF-8 is replaced: a name in /sys may hold anything
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (counted) {
    hash_.update(text);
    ++lines_;
  }
  file_ << text;
}

}  // namespace qwen_edge
