// The phone's runner: the cases of benchmarks/cases.py on one artifact, answered with an event stream.
//
//   runner --artifact DIR --cases cases.json --out events.jsonl
//
// Prompts are token ids: this runner has no tokenizer, and its first line says so. The model is the artifact's own file
// in the runtime the runner was built for; a load is opening that file, with the runtime's libraries already there.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "counters.h"
#include "job.h"
#include "model.h"
#include "stream.h"

namespace qwen_edge {
namespace {

constexpr char RUNNER[] = "qwen-edge phone runner 1";
constexpr size_t MAX_ERROR_CHARACTERS = 2000;

Json with(Json line, const char* name, Json value) {
  line[name] = std::move(value);
  return line;
}

void mark(Recorder& recorder, const char* name) { recorder.emit(with(event("marker"), "name", name)); }

Json first_line(const Artifact& artifact, const Job& job, int threads) {
  Json line = event("stream");
  line["version"] = 1;
  line["runner"] = RUNNER;
  line["runtime"] = runtime_name() + " " + runtime_version();
  line["series"] = "adb-shell";
  line["clock"] = "monotonic";
  line["requested"] = Json{{"backend", artifact.backend},
                           {"threads", job.threads ? Json(*job.threads) : Json(nullptr)},
                           {"affinity", job.affinity ? Json(*job.affinity) : Json(nullptr)}};
  line["effective"] = Json{{"threads", threads}, {"affinity", affinity()}, {"details", Json{{"tokenizer", "none"}}}};
  return line;
}

int64_t best(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();  // the lowest id among equals
}

// One greedy generation that no end token ends; `recorder` is null for a warm-up.
void generate(Model& model, const Artifact& artifact, const Case& one, Recorder* recorder) {
  const auto tell = [&](Json line) {
    if (recorder) recorder->emit(std::move(line));
  };
  const int64_t length = static_cast<int64_t>(one.prompt.size());
  int64_t position = 0;
  std::span<const float> logits;
  while (position < length) {
    const int64_t count = std::min(artifact.prefill_chunk, length - position);
    tell(with(with(event("prefill_start"), "position", position), "tokens", count));
    logits = model.forward({one.prompt.data() + position, static_cast<size_t>(count)}, position);
    position += count;
    tell(with(with(event("prefill_end"), "position", position), "tokens", count));
  }
  const char* reason = nullptr;
  int64_t chosen = 0;
  while (!reason) {
    const int64_t token = best(logits);
    tell(with(with(event("token"), "index", chosen), "token", token));
    ++chosen;
    if (chosen >= one.new_tokens) {
      reason = "max_tokens";
    } else if (position >= artifact.context_length) {
      reason = "context";
    } else {
      logits = model.forward({&token, 1}, position++);
    }
  }
  tell(with(with(event("stop"), "reason", reason), "tokens", chosen));
}

void warm_up(Model& model, const Artifact& artifact, const Case& one, Recorder& recorder) {
  if (!one.warm_ups) return;
  mark(recorder, "warm_up_start");
  for (int64_t index = 0; index < one.warm_ups; ++index) {
    model.reset();
    generate(model, artifact, one, nullptr);
  }
  mark(recorder, "warm_up_end");
  recorder.flush();
}

void repeat(Model& model, const Artifact& artifact, const Case& one, Recorder& recorder) {
  const int64_t deadline_ns = now_ns() + one.duration_ms.value_or(0) * 1'000'000;
  for (int64_t index = 0; one.duration_ms ? index == 0 || now_ns() < deadline_ns : index < one.repeats; ++index) {
    model.reset();
    recorder.emit(with(event("submit"), "prompt_tokens", one.prompt.size()));
    generate(model, artifact, one, &recorder);
    recorder.flush();
  }
}

// The energy of doing nothing, by the same samples: nothing is loaded yet, the process only waits.
// Nothing is written: the first line waits until it is known what runs.
void idle(const Case& one, Recorder& recorder) {
  if (!one.idle_ms) return;
  mark(recorder, "idle_start");
  std::this_thread::sleep_for(std::chrono::milliseconds(one.idle_ms));
  mark(recorder, "idle_end");
}

void check(const Artifact& artifact, const Case& one) {
  const auto [least, most] = std::minmax_element(one.prompt.begin(), one.prompt.end());
  if (*least < 0 || *most >= artifact.vocab_size) throw std::runtime_error(one.name + ": a token of the prompt is outside the vocabulary");
  if (static_cast<int64_t>(one.prompt.size()) > artifact.context_length) {
    throw std::runtime_error(one.name + ": the prompt is longer than the context of " + std::to_string(artifact.context_length));
  }
}

void run_case(const Case& one, const Artifact& artifact, int threads, Recorder& recorder) {
  recorder.emit(with(with(event("case_start"), "case", one.name), "kind", one.kind));
  check(artifact, one);
  sample(recorder, {"memory"});
  if (one.drop_page_cache) drop_page_cache(recorder, artifact.files);
  {
    std::optional<Sampler> sampler;
    if (one.sample_interval_ms) sampler.emplace(recorder, one.samples, *one.sample_interval_ms);
    idle(one, recorder);
    recorder.emit(event("load_start"));
    const std::unique_ptr<Model> model = open_model(artifact, threads);
    recorder.emit(event("load_end"));
    recorder.first()["effective"]["backend"] = artifact.backend;  // it loaded, and there is no other backend in here
    warm_up(*model, artifact, one, recorder);
    repeat(*model, artifact, one, recorder);
    sampler.reset();
    sample(recorder, {"memory", "cpu"});
  }
  recorder.emit(with(event("case_end"), "case", one.name));
  recorder.flush();
}

std::string printable(std::string text) {
  for (char& letter : text) {
    if (static_cast<unsigned char>(letter) < ' ' || letter == 127) letter = ' ';
  }
  return text.substr(0, MAX_ERROR_CHARACTERS);
}

void run(const std::string& directory, const std::string& cases, const std::string& out) {
  const Artifact artifact = read_artifact(directory);
  const Job job = read_job(cases);
  if (artifact.runtime != runtime_name()) {
    throw std::runtime_error(directory + ": is for " + artifact.runtime + ", this runner was built for " + runtime_name());
  }
  if (job.affinity) confine(*job.affinity);
  const int threads = job.threads.value_or(default_threads());
  Recorder recorder(out, first_line(artifact, job, threads));
  try {
    for (const Case& one : job.cases) run_case(one, artifact, threads, recorder);
  } catch (const std::bad_alloc&) {
    recorder.emit(with(event("error"), "what", "bad_alloc: out of memory"));
  } catch (const std::exception& error) {
    recorder.emit(with(event("error"), "what", printable(error.what())));
  }
  recorder.end();
}

std::map<std::string, std::string> options(int count, char** words) {
  std::map<std::string, std::string> found;
  for (int index = 1; index + 1 < count; index += 2) found[words[index]] = words[index + 1];
  if (count != 7 || !found.contains("--artifact") || !found.contains("--cases") || !found.contains("--out")) {
    throw std::invalid_argument("usage: runner --artifact DIR --cases cases.json --out events.jsonl");
  }
  return found;
}

}  // namespace
}  // namespace qwen_edge

int main(int count, char** words) {
  setenv("ORT_DISABLE_TELEMETRY", "1", 1);
  try {
    auto found = qwen_edge::options(count, words);
    qwen_edge::run(found["--artifact"], found["--cases"], found["--out"]);
    return 0;
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
