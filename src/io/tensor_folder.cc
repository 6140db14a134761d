#include "io/tensor_folder.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/hash.h"
#include "base/json.h"
#include "io/bytes.h"

namespace megalodon::io {
namespace {

using Json = nlohmann::json;

constexpr std::string_view kSuffix = ".safetensors";
constexpr uintmax_t kMaxIndex = 100'000'000;  // as the format's own limit of a header, which holds the same names

fs::path file_path(const fs::path& folder, const std::string& name) {
  return folder / fmt::format("{}{}", name, kSuffix);
}

fs::path index_path(const fs::path& folder, const std::string& name) {
  return folder / fmt::format("{}{}.index.json", name, kSuffix);
}

/// "" for a name that stands for a file of the index's own folder and can hold tensors.
std::string problem_of_name(const std::string& name) {
  const bool plain = name.find('/') == std::string::npos && name.find('\0') == std::string::npos && name.size() < 256;
  if (plain && name.front() != '.' && name.size() > kSuffix.size() && name.ends_with(kSuffix)) return "";
  return fmt::format("'{}' is no plain name of a .safetensors file", printable(name));
}

/// shard -> its tensors, in the order of names.
std::map<std::string, std::vector<std::string>> read_index(const fs::path& path) {
  check(fs::is_regular_file(fs::symlink_status(path)), "[{}] expected a regular file", path.string());
  check(fs::file_size(path) <= kMaxIndex, "[{}] is above the limit of {} bytes", path.string(), kMaxIndex);
  const Json tree = parse_json(read_file(path), path.string());
  const auto map = tree.is_object() ? tree.find("weight_map") : tree.end();
  check(map != tree.end() && map->is_object() && !map->empty(), "[{}] expected an object \"weight_map\"",
        path.string());
  std::map<std::string, std::vector<std::string>> shards;
  for (const auto& [tensor, shard] : map->items()) {
    check(shard.is_string() && !shard.get_ref<const std::string&>().empty(), "[{}] {}: expected the name of a file",
          path.string(), printable(tensor));
    shards[shard.get<std::string>()].push_back(tensor);
  }
  std::vector<std::string> problems;
  for (const auto& [shard, tensors] : shards)
    if (const std::string problem = problem_of_name(shard); !problem.empty()) problems.push_back(problem);
  check(problems.empty(), "[{}] {}", path.string(), fmt::join(problems, "; "));
  return shards;
}

class ShardReader {
 public:
  explicit ShardReader(const fs::path& index) : index_(index), shards_(read_index(index)) {}

  TensorFile read() {
    for (const auto& [shard, tensors] : shards_) add(shard, tensors);
    check(problems_.empty(), "[{}] the shards do not fit the index:\n  {}", index_.string(),
          fmt::join(problems_, "\n  "));
    return with_context(fmt::format("[{}]", index_.string()),
                        [&] { return TensorFile(std::move(views_), std::move(metadata_), std::move(files_)); });
  }

 private:
  void add(const std::string& shard, const std::vector<std::string>& tensors) {
    const fs::path path = index_.parent_path() / shard;
    if (!fs::is_regular_file(fs::symlink_status(path))) {
      const bool exists = fs::exists(fs::symlink_status(path));
      problems_.push_back(fmt::format("{}: {}", shard, exists ? "not a regular file" : "missing"));
      return;
    }
    const auto file = std::make_shared<const TensorFile>(read_safetensors(path));
    for (const std::string& name : tensors)
      if (file->find(name) == nullptr) problems_.push_back(fmt::format("{}: lacks {}", shard, printable(name)));
    for (const TensorView& view : file->tensors()) {
      if (!std::binary_search(tensors.begin(), tensors.end(), view.name))
        problems_.push_back(fmt::format("{}: {} is not listed there", shard, view.name));
      views_.push_back(view);
    }
    metadata_ = file->metadata();
    files_.push_back(file);
  }

  fs::path index_;
  std::map<std::string, std::vector<std::string>> shards_;
  std::vector<TensorView> views_;
  std::map<std::string, std::string> metadata_;
  std::vector<std::shared_ptr<const void>> files_;  // own what the views refer to
  std::vector<std::string> problems_;
};

std::vector<std::vector<TensorView>> split(std::span<const TensorView> tensors, uint64_t max_shard_bytes) {
  std::vector<std::vector<TensorView>> shards(1);
  uint64_t used = 0;
  for (const TensorView& tensor : tensors) {
    if (!shards.back().empty() && used + tensor.bytes.size() > max_shard_bytes) {
      shards.emplace_back();
      used = 0;
    }
    shards.back().push_back(tensor);
    used += tensor.bytes.size();
  }
  return shards;
}

}  // namespace

bool has_tensors(const fs::path& folder, const std::string& name) {
  return fs::exists(file_path(folder, name)) || fs::exists(index_path(folder, name));
}

TensorFile read_tensors(const fs::path& folder, const std::string& name) {
  const fs::path file = file_path(folder, name), index = index_path(folder, name);
  const bool sharded = fs::exists(fs::symlink_status(index));
  check(!sharded || !fs::exists(fs::symlink_status(file)), "[{}] holds both {} and {}: which of them is meant?",
        folder.string(), file.filename().string(), index.filename().string());
  if (sharded) return ShardReader(index).read();
  check(fs::is_regular_file(file), "[{}] expected {} or {} there", folder.string(), file.filename().string(),
        index.filename().string());
  return read_safetensors(file);
}

std::vector<FileSum> write_tensors(const fs::path& folder, const std::string& name, std::span<const TensorView> tensors,
                                   uint64_t max_shard_bytes) {
  const auto shards = split(tensors, max_shard_bytes);
  if (shards.size() == 1) return {write_safetensors(file_path(folder, name), tensors)};
  std::vector<FileSum> sums;
  Json map = Json::object();
  uint64_t total = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string shard = fmt::format("{}-{:05}-of-{:05}{}", name, i + 1, shards.size(), kSuffix);
    sums.push_back(write_safetensors(folder / shard, shards[i]));
    for (const TensorView& tensor : shards[i]) {
      map[tensor.name] = shard;
      total += tensor.bytes.size();
    }
  }
  const std::string text = Json({{"metadata", {{"total_size", total}}}, {"weight_map", map}}).dump(2) + "\n";
  const fs::path index = index_path(folder, name);
  write_file_atomically(index, text);
  sums.push_back({index.filename().string(), text.size(), xxh3_64(text)});
  return sums;
}

}  // namespace megalodon::io
