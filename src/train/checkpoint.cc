#include "train/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/json.h"
#include "models/weights.h"
#include "train/folder_lock.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kPrefix = "step-";
constexpr int kFormatVersion = 2;
constexpr int64_t kAnyStep = std::numeric_limits<int64_t>::max();

std::string checkpoint_name(int64_t step) {
  return fmt::format("{}{:08}", kPrefix, step);
}

/// The step in a checkpoint folder's name; none for anything else, temporary folders included.
std::optional<int64_t> step_of(const fs::path& path) {
  const std::string name = path.filename().string();
  if (name.compare(0, kPrefix.size(), kPrefix) != 0) return {};
  const std::string digits = name.substr(kPrefix.size());
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  if (digits.size() < 8 || digits.size() > 18 || !std::all_of(digits.begin(), digits.end(), is_digit)) return {};
  return std::stoll(digits);
}

/// {"a": {"b": 1}} -> {"a.b": 1}
void flatten(const Json& tree, const std::string& path, std::vector<std::pair<std::string, Json>>& out) {
  if (!tree.is_object()) {
    out.emplace_back(path, tree);
    return;
  }
  const std::string prefix = path.empty() ? "" : path + ".";
  for (const auto& [key, value] : tree.items()) flatten(value, prefix + key, out);
}

std::vector<std::pair<std::string, Json>> flatten(const Json& tree) {
  std::vector<std::pair<std::string, Json>> out;
  flatten(tree, "", out);
  return out;
}

const Json* find(const std::vector<std::pair<std::string, Json>>& entries, const std::string& key) {
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return entry.first == key; });
  return found == entries.end() ? nullptr : &found->second;
}

std::vector<std::string> lines_at(const Json& tree, const char* key, const fs::path& path) {
  std::vector<std::string> lines;
  const auto found = tree.find(key);
  check(found != tree.end() && found->is_array(), "[{}] {} is missing or no list; the checkpoint is damaged",
        path.string(), key);
  for (const Json& line : *found) {
    check(line.is_string() && line.get_ref<const std::string&>().ends_with('\n'),
          "[{}] {} holds {}, which is no line; the checkpoint is damaged", path.string(), key, line.dump());
    lines.push_back(line);
  }
  return lines;
}

std::string to_text(const TrainerState& state) {
  const Json tree = {{"format", "megalodon.cpp trainer"},
                     {"format_version", kFormatVersion},
                     {"step", state.step},
                     {"updates", state.updates},
                     {"micro_batches", state.micro_batches},
                     {"loader_position", state.loader_position},
                     {"tokens", state.tokens},
                     {"records", state.records},
                     {"unwritten", state.unwritten},
                     {"evaluation_pending", state.evaluation_pending},
                     {"fixed", state.fixed},
                     {"environment", state.environment},
                     {"settings", state.settings},
                     {"more", state.more}};
  return tree.dump(2) + "\n";
}

/// The checkpoints in a folder, up to a step, the newest first.
std::vector<std::pair<int64_t, fs::path>> checkpoints_up_to(const fs::path& folder, int64_t step) {
  std::vector<std::pair<int64_t, fs::path>> found;
  std::error_code error;  // a folder that cannot be listed holds nothing for us
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error))
    if (const auto at = step_of(entry->path()); at && *at <= step) found.emplace_back(*at, entry->path());
  std::sort(found.rbegin(), found.rend());
  return found;
}

void move_folder(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::rename(from, to, error);
  check(!error, "[train] cannot rename '{}' to '{}': {}", from.string(), to.string(), error.message());
}

/// "abandoned-step-00001000", or with ".2" and so on behind it where that is taken.
fs::path abandoned_name(const fs::path& checkpoint) {
  const fs::path path = checkpoint.parent_path() / fmt::format("abandoned-{}", checkpoint.filename().string());
  fs::path free = path;
  for (int i = 2; fs::exists(free); ++i) free = fmt::format("{}.{}", path.string(), i);
  return free;
}

/// The newest older checkpoint beside this one whose files are all as they were written.
std::optional<fs::path> whole_checkpoint_before(const fs::path& checkpoint) {
  // Where the name is none of a checkpoint, any step is older.
  for (const auto& [step, older] : checkpoints_up_to(checkpoint.parent_path(), step_of(checkpoint).value_or(kAnyStep)))
    if (older.filename() != checkpoint.filename() && is_whole(older)) return older;
  return {};
}

}  // namespace

std::vector<std::string> differences(const Json& was, const Json& is) {
  const auto before = flatten(was), now = flatten(is);
  std::vector<std::string> list;
  for (const auto& [key, value] : now) {
    const Json* old = find(before, key);
    if (old == nullptr) {
      list.push_back(fmt::format("{} is {}, was absent", key, value.dump()));
    } else if (*old != value) {
      list.push_back(fmt::format("{} is {}, was {}", key, value.dump(), old->dump()));
    }
  }
  for (const auto& [key, value] : before)
    if (find(now, key) == nullptr) list.push_back(fmt::format("{} is absent, was {}", key, value.dump()));
  return list;
}

FolderParts checkpoint_parts(FolderParts model, const AdamW& optimizer, const TrainerState& state) {
  model.tensors.push_back({"optimizer", optimizer.state()});
  model.texts.push_back({"trainer.json", to_text(state)});
  return model;
}

TrainerState read_trainer_state(const fs::path& checkpoint) {
  const fs::path path = checkpoint / "trainer.json";
  check(fs::is_regular_file(path),
        "[--resume] '{}' is no checkpoint: expected one of a run, with trainer.json; model folders, quantized or not, "
        "cannot be trained on",
        checkpoint.string());
  const Json tree = parse_json<Json>(read_file(path), path.string());
  check(tree.is_object() && tree.value("format_version", Json()) == kFormatVersion && tree.contains("fixed") &&
            tree.contains("environment") && tree.contains("settings"),
        "[{}] expected a trainer state of format version {}; the checkpoint is damaged or from another version",
        path.string(), kFormatVersion);
  TrainerState state;
  state.step = count_at(tree, "step", path.string());
  state.updates = count_at(tree, "updates", path.string());
  state.micro_batches = count_at(tree, "micro_batches", path.string());
  state.loader_position = count_at(tree, "loader_position", path.string());
  state.tokens = count_at(tree, "tokens", path.string());
  state.records = count_at(tree, "records", path.string());
  state.unwritten = lines_at(tree, "unwritten", path);
  state.evaluation_pending = tree.value("evaluation_pending", Json()) == true;
  state.fixed = tree["fixed"];
  state.environment = tree["environment"];
  state.settings = tree["settings"];
  state.more = tree.value("more", Json::object());
  return state;
}

bool is_whole(const fs::path& checkpoint) {
  try {
    verify_manifest(checkpoint);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void verify_checkpoint(const fs::path& checkpoint) {
  try {
    verify_manifest(checkpoint);
  } catch (const Error& damage) {
    const auto older = whole_checkpoint_before(checkpoint);
    if (!older) fail("{}; no older checkpoint beside it is whole", damage.what());
    fail("{}; the newest older one that is whole: --resume {}", damage.what(), older->string());
  }
}

std::optional<fs::path> RunFolder::latest() const {
  if (!fs::exists(checkpoints() / "latest")) return {};
  return model_folder(path_);
}

std::vector<std::pair<int64_t, fs::path>> RunFolder::list() const {
  return checkpoints_up_to(checkpoints(), kAnyStep);
}

void RunFolder::open() {
  std::error_code error;
  fs::create_directories(checkpoints(), error);
  check(!error, "[train.out] cannot create '{}': {}", checkpoints().string(), error.message());
  lock_ = lock_folder(path_);
  clear_unfinished();
}

void RunFolder::clear_unfinished() const {
  // Nobody else writes here, so what was left of checkpoints on their way in or out is garbage.
  std::vector<fs::path> garbage;
  for (const auto& entry : fs::directory_iterator(checkpoints())) {
    const std::string name = entry.path().filename().string();
    if (name.starts_with(fmt::format(".{}", kPrefix)) || name.starts_with(".latest.")) garbage.push_back(entry.path());
  }
  std::error_code ignored;  // the next time, then
  for (const fs::path& path : garbage) fs::remove_all(path, ignored);
}

void RunFolder::write_config(const std::string& toml) const {
  write_file_atomically(config(), toml);
}

uint64_t RunFolder::save(const FolderParts& parts, int64_t step, const SaveOptions& options) const {
  const fs::path target = checkpoints() / checkpoint_name(step);
  uint64_t bytes = 0;
  try {
    sync_path(metrics());   // the lines that the checkpoint counts must outlive a loss of power as it does
  } catch (const Error&) {  // which is the log's to report
  }
  write_folder_atomically(target, [&](const fs::path& folder) {
    const auto files = write_parts(parts, folder, options.max_shard_bytes);
    for (const FileSum& file : files) bytes += file.bytes;
    write_manifest(folder, files);
  });
  set_latest(target);
  prune(step, options);
  return bytes;
}

void RunFolder::set_latest(const fs::path& checkpoint) const {
  write_file_atomically(checkpoints() / "latest", checkpoint.filename().string() + "\n");
}

std::vector<fs::path> RunFolder::go_on_from(const fs::path& checkpoint, int64_t step) const {
  set_latest(checkpoint);  // first: whoever loads from the run meanwhile finds what it names
  std::vector<fs::path> abandoned;
  for (const auto& [later, path] : list()) {
    if (later < step) break;
    if (path.filename() != checkpoint.filename()) move_folder(path, abandoned.emplace_back(abandoned_name(path)));
  }
  const fs::path target = checkpoints() / checkpoint_name(step);
  if (checkpoint.filename() != target.filename()) move_folder(checkpoint, target);  // it had been abandoned itself
  set_latest(target);  // also brings the new names to the disk
  return abandoned;
}

void RunFolder::prune(int64_t step, const SaveOptions& options) const {
  clear_unfinished();
  const auto own = checkpoints_up_to(checkpoints(), step);
  for (size_t i = static_cast<size_t>(options.keep); i < own.size(); ++i) {
    const bool major = options.major_every > 0 && own[i].first % options.major_every == 0;
    if (major) continue;
    try {
      remove_folder(own[i].second);
    } catch (const Error&) {  // this save succeeded; the next one tries again
    }
  }
}

}  // namespace megalodon
