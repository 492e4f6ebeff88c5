#include "job.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

namespace qwen_edge {
namespace {

using nlohmann::json;

json read_json(const std::string& place) {
  std::ifstream file(place, std::ios::binary);
  if (!file) throw std::runtime_error(place + ": cannot be read");
  return json::parse(file);
}

template <typename Value>
std::optional<Value> optional(const json& object, const char* name) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return std::nullopt;
  return found->get<Value>();
}

std::string inside(const std::string& directory, const std::string& path) {
  if (path.empty() || path[0] == '/' || path.find("..") != std::string::npos) {
    throw std::runtime_error("the path '" + path + "' leads outside the artifact");
  }
  return directory + "/" + path;
}

StateTensor read_state(const json& tensor) {
  StateTensor state;
  state.name = tensor.at("name").get<std::string>();
  state.dtype = tensor.at("dtype").get<std::string>();
  state.shape = tensor.at("shape").get<std::vector<int64_t>>();
  state.bytes = tensor.at("bytes").get<int64_t>();
  state.input_name = optional<std::string>(tensor, "input_name").value_or("");
  state.output_name = optional<std::string>(tensor, "output_name").value_or("");
  state.grows = !tensor.at("token_axis").is_null();
  return state;
}

Case read_case(const json& entry) {
  Case one;
  one.name = entry.at("case").get<std::string>();
  one.kind = entry.at("kind").get<std::string>();
  one.prompt = entry.at("prompt").get<std::vector<int64_t>>();
  one.new_tokens = entry.at("new_tokens").get<int64_t>();
  one.warm_ups = entry.value("warm_ups", int64_t{0});
  one.repeats = entry.value("repeats", int64_t{1});
  one.duration_ms = optional<int64_t>(entry, "duration_ms");
  one.sample_interval_ms = optional<int64_t>(entry, "sample_interval_ms");
  one.idle_ms = optional<int64_t>(entry, "idle_ms").value_or(0);
  one.drop_page_cache = entry.value("drop_page_cache", false);
  one.samples = entry.value("samples", std::vector<std::string>{});
  if (one.prompt.empty() || one.new_tokens < 1 || one.repeats < 1) {
    throw std::runtime_error("case '" + one.name + "' needs a prompt, new_tokens and repeats");
  }
  return one;
}

template <typename Result>
Result explained(const std::string& place, Result (*read)(const std::string&)) {
  try {
    return read(place);
  } catch (const json::exception& error) {
    throw std::runtime_error(place + ": " + error.what());
  }
}

Artifact read_manifest(const std::string& directory) {
  const json manifest = read_json(directory + "/manifest.json");
  Artifact artifact;
  artifact.directory = directory;
  artifact.model_file = inside(directory, manifest.at("model_file").get<std::string>());
  artifact.backend = manifest.at("backend").get<std::string>();
  artifact.runtime = manifest.at("runtime").at("name").get<std::string>();
  artifact.context_length = manifest.at("context_length").get<int64_t>();
  artifact.prefill_chunk = manifest.at("prefill_chunk").get<int64_t>();
  artifact.vocab_size = manifest.at("vocab_size").get<int64_t>();
  for (const json& tensor : manifest.at("state")) artifact.state.push_back(read_state(tensor));
  for (const json& file : manifest.at("files")) {
    artifact.files.push_back(inside(directory, file.at("path").get<std::string>()));
  }
  if (artifact.context_length < 1 || artifact.prefill_chunk < 1 || artifact.vocab_size < 1) {
    throw std::runtime_error(directory + "/manifest.json: context_length, prefill_chunk and vocab_size must be positive");
  }
  return artifact;
}

Job read_cases(const std::string& place) {
  const json file = read_json(place);
  if (file.at("version") != 1) throw std::runtime_error(place + ": this runner reads version 1");
  Job job;
  job.threads = optional<int>(file, "threads");
  job.affinity = optional<std::vector<int>>(file, "affinity");
  for (const json& entry : file.at("cases")) job.cases.push_back(read_case(entry));
  return job;
}

}  // namespace

Artifact read_artifact(const std::string& directory) { return explained(directory, read_manifest); }

Job read_job(const std::string& place) { return explained(place, read_cases); }

}  // namespace qwen_edge
