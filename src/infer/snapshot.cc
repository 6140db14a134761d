#include "infer/snapshot.h"

#include <charconv>

#include "base/check.h"
#include "base/json.h"
#include "io/tensor_file.h"
#include "models/weights.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kContent = "megalodon.cpp stream";
constexpr const char* kVersion = "1";

std::string metadata_at(const io::TensorFile& file, const std::string& key, const fs::path& path) {
  const auto found = file.metadata().find(key);
  check(found != file.metadata().end(), "['{}'] expected the metadata of a stream's snapshot; there is no '{}'",
        path.string(), key);
  return found->second;
}

void expect_metadata(const io::TensorFile& file, const std::string& key, const std::string& expected,
                     const fs::path& path, std::string_view meaning) {
  const std::string found = metadata_at(file, key, path);
  check(found == expected, "['{}'] {}: expected {} '{}', found '{}'", path.string(), meaning, key, expected, found);
}

int64_t tokens_of(const io::TensorFile& file, const fs::path& path) {
  const std::string text = metadata_at(file, "tokens", path);
  int64_t tokens = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), tokens);
  constexpr int64_t kMost = int64_t{1} << 53;  // a stream reads on, and is to stay far from where counts end
  check(error == std::errc() && end == text.data() + text.size() && tokens > 0 && tokens <= kMost,
        "['{}'] expected a number of tokens above 0 and at most {}, found '{}'", path.string(), kMost, text);
  return tokens;
}

}  // namespace

void save_snapshot(const fs::path& path, const Engine& engine, const Snapshot& snapshot) {
  check(snapshot.stream.tokens() > 0, "[snapshot] the stream has not read anything yet: there is nothing to save");
  const NamedTensors tensors = engine.tensors(snapshot.stream);
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : tensors) views.push_back(to_view(name, tensor));
  io::write_safetensors(path, views,
                        {{"content", kContent},
                         {"content_version", kVersion},
                         {"model", engine.fingerprint()},
                         {"tokens", std::to_string(snapshot.stream.tokens())},
                         {"more", snapshot.more.dump()}});
}

Snapshot load_snapshot(const fs::path& path, const Engine& engine) {
  return snapshot_of(io::read_safetensors(path), engine, path);
}

Snapshot snapshot_of(const io::TensorFile& file, const Engine& engine, const fs::path& path) {
  expect_metadata(file, "content", kContent, path, "this is no stream's snapshot");
  expect_metadata(file, "content_version", kVersion, path, "another version wrote this snapshot");
  expect_metadata(file, "model", engine.fingerprint(), path, "this snapshot is of another model");
  const std::string more = metadata_at(file, "more", path);
  try {
    return {engine.restore(file, tokens_of(file, path)), parse_json<Json>(more, "more")};
  } catch (const Error& error) {
    fail("['{}'] the snapshot is damaged or from another version: {}", path.string(), error.what());
  }
}

}  // namespace megalodon
