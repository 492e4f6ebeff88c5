#include "counters.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <sched.h>
#include <set>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

namespace qwen_edge {
namespace {

namespace fs = std::filesystem;

constexpr double SLOW_CORE_RATIO = 0.7;
constexpr size_t SMT_MIN_CORES = 4;
// of a power supply: the file's name, and the value's
constexpr std::pair<const char*, const char*> POWER_FILES[] = {
    {"current_now", "current_ua"},     {"voltage_now", "voltage_uv"},    {"charge_counter", "charge_counter_uah"},
    {"charge_now", "charge_uah"},      {"capacity", "capacity_percent"}, {"temp", "temp_decicelsius"},
    {"online", "online"},
};
const std::set<std::string_view> MEMORY_LINES = {"VmHWM",   "VmRSS", "VmSwap",   "RssAnon",  "RssFile",
                                                 "RssShmem", "Pss",   "Pss_Anon", "Pss_File", "SwapPss"};

std::string read(const fs::path& place) {
  std::ifstream file(place, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

std::string trimmed(std::string text) {
  while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back()))) text.pop_back();
  return text;
}

// Adds a value where the file holds a whole number.
void add_number(Json& values, const std::string& name, const fs::path& place) {
  const std::string text = trimmed(read(place));
  const bool negative = !text.empty() && text[0] == '-';
  const std::string digits = text.substr(negative);
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos) return;
  values[name] = std::stoll(text);
}

std::vector<fs::path> folders(const fs::path& root, std::string_view prefix) {
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(root, ignored)) {
    if (entry.path().filename().string().starts_with(prefix)) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::string plain(std::string name) {
  for (char& letter : name) {
    if (!std::isalnum(static_cast<unsigned char>(letter)) && !std::strchr("_.-", letter)) letter = '_';
  }
  return name.substr(0, 40);
}

Json memory(const char* place) {
  Json values = Json::object();
  std::istringstream lines(read(place));
  for (std::string line; std::getline(lines, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || !line.ends_with(" kB")) continue;
    const std::string name = line.substr(0, colon);
    if (MEMORY_LINES.contains(name)) values[name + "_kb"] = std::stoll(line.substr(colon + 1));
  }
  return values;
}

Json cpu_time() {
  const std::string text = read("/proc/self/stat");
  // the name, which may hold anything, ends at the last parenthesis; the times are 12 and 13 fields after it
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::vector<std::string> words{std::istream_iterator<std::string>(fields), {}};
  if (words.size() < 13) return Json::object();
  const int64_t tick_ms = 1000 / sysconf(_SC_CLK_TCK);
  return Json{{"user_ms", std::stoll(words[11]) * tick_ms}, {"system_ms", std::stoll(words[12]) * tick_ms}};
}

Json thermal() {
  Json values = Json::object();
  for (const fs::path& zone : folders("/sys/class/thermal", "thermal_zone")) {
    add_number(values, zone.filename().string().substr(8) + "_temp_millicelsius", zone / "temp");
  }
  return values;
}

Json frequencies() {
  Json values = Json::object();
  for (const fs::path& policy : folders("/sys/devices/system/cpu/cpufreq", "policy")) {
    add_number(values, policy.filename().string() + "_cur_khz", policy / "scaling_cur_freq");
  }
  return values;
}

Json power() {
  Json values = Json::object();
  for (const fs::path& supply : folders("/sys/class/power_supply", "")) {
    for (const auto& [file, quantity] : POWER_FILES) {
      add_number(values, plain(supply.filename().string()) + "_" + quantity, supply / file);
    }
  }
  return values;
}

void emit(Recorder& recorder, const std::string& kind, const char* source, Json values) {
  if (values.empty()) return;
  Json line = event("sample");
  line["kind"] = kind;
  line["source"] = source;
  line["values"] = std::move(values);
  recorder.emit(std::move(line));
}

int64_t resident_bytes(int handle, size_t length) {
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* address = mmap(nullptr, length, PROT_READ, MAP_SHARED, handle, 0);
  if (address == MAP_FAILED) throw std::runtime_error(std::string("mmap: ") + std::strerror(errno));
  std::vector<unsigned char> pages((length + page - 1) / page);
  const int failed = mincore(address, length, pages.data());
  munmap(address, length);
  if (failed) throw std::runtime_error(std::string("mincore: ") + std::strerror(errno));
  const auto resident = std::count_if(pages.begin(), pages.end(), [](unsigned char flags) { return flags & 1; });
  return resident * static_cast<int64_t>(page);
}

int64_t speed(const fs::path& cpu) {
  Json found = Json::object();
  add_number(found, "speed", cpu / "cpufreq/cpuinfo_max_freq");
  add_number(found, "speed", cpu / "cpu_capacity");
  return found.value("speed", int64_t{1});
}

}  // namespace

void sample(Recorder& recorder, const std::vector<std::string>& kinds) {
  for (const std::string& kind : kinds) {
    if (kind == "memory") {
      emit(recorder, kind, "/proc/self/status", memory("/proc/self/status"));
      emit(recorder, kind, "/proc/self/smaps_rollup", memory("/proc/self/smaps_rollup"));
    } else if (kind == "cpu") {
      emit(recorder, kind, "/proc/self/stat", cpu_time());
    } else if (kind == "thermal") {
      emit(recorder, kind, "/sys/class/thermal", thermal());
    } else if (kind == "frequency") {
      emit(recorder, kind, "/sys/devices/system/cpu/cpufreq", frequencies());
    } else if (kind == "battery") {
      emit(recorder, kind, "/sys/class/power_supply", power());
    } else {
      throw std::runtime_error("no samples of kind '" + kind + "'");
    }
  }
}

Sampler::Sampler(Recorder& recorder, std::vector<std::string> kinds, int64_t interval_ms)
    : thread_([&recorder, kinds = std::move(kinds), interval_ms](std::stop_token stop) {
        std::mutex mutex;
        std::condition_variable_any bell;
        auto next = std::chrono::steady_clock::now();
        while (!stop.stop_requested()) {
          sample(recorder, kinds);
          next += std::chrono::milliseconds(interval_ms);
          std::unique_lock lock(mutex);
          bell.wait_until(lock, stop, next, [] { return false; });
        }
      }) {}

Sampler::~Sampler() {
  thread_.request_stop();
  thread_.join();
}

int default_threads() {
  const fs::path root = "/sys/devices/system/cpu";
  std::map<int, int64_t> speeds;
  for (const int cpu : affinity()) speeds[cpu] = speed(root / ("cpu" + std::to_string(cpu)));
  int64_t fastest = 1;
  for (const auto& [cpu, value] : speeds) fastest = std::max(fastest, value);
  std::set<std::string> cores;
  size_t fast = 0;
  for (const auto& [cpu, value] : speeds) {
    if (static_cast<double>(value) < SLOW_CORE_RATIO * static_cast<double>(fastest)) continue;
    ++fast;
    const std::string name = std::to_string(cpu);
    const std::string siblings = trimmed(read(root / ("cpu" + name) / "topology/thread_siblings_list"));
    cores.insert(siblings.empty() ? name : siblings);
  }
  return static_cast<int>(std::max<size_t>(1, cores.size() >= SMT_MIN_CORES ? cores.size() : fast));
}

std::vector<int> affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set)) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

void confine(const std::vector<int>& cpus) {
  cpu_set_t set;
  CPU_ZERO(&set);
  for (const int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) throw std::runtime_error("no CPU " + std::to_string(cpu));
    CPU_SET(cpu, &set);
  }
  if (sched_setaffinity(0, sizeof(set), &set)) {
    throw std::runtime_error(std::string("these CPUs are refused: ") + std::strerror(errno));
  }
}

void drop_page_cache(Recorder& recorder, const std::vector<std::string>& files) {
  int64_t resident = 0, total = 0;
  for (const std::string& place : files) {
    const int handle = open(place.c_str(), O_RDONLY | O_CLOEXEC);
    if (handle < 0) throw std::runtime_error(place + ": " + std::strerror(errno));
    struct stat status {};
    fstat(handle, &status);
    fdatasync(handle);
    posix_fadvise(handle, 0, 0, POSIX_FADV_DONTNEED);
    if (status.st_size > 0) resident += resident_bytes(handle, static_cast<size_t>(status.st_size));
    total += status.st_size;
    close(handle);
  }
  emit(recorder, "memory", "mincore", Json{{"resident_bytes", resident}, {"file_bytes", total}});
}

}  // namespace qwen_edge
