// A run folder and the checkpoints in it:
//
//   config.toml                      the effective configuration
//   metrics.jsonl                    one line per step and evaluation
//   lock                             held while a process trains here
//   checkpoints/latest               name of the newest checkpoint, written after it: "step-00001000\n"
//   checkpoints/step-00001000/       model.safetensors, config.json      the model folder that every command loads
//                                    optimizer.safetensors, trainer.json what resuming needs besides
//                                    manifest.json                       size and checksum of each, see base/manifest.h
//
// Further parts (see models/folder_parts.h) lie beside them; tensors above train.shard_gb are split into shards.
//
// A checkpoint folder appears whole or not at all, `latest` changes after it, and older ones are deleted after that: a
// crash at any moment leaves a checkpoint that loads.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "models/folder_parts.h"
#include "train/optimizer.h"

namespace megalodon {

/// Where a run stands; trainer.json.
struct TrainerState {
  int64_t step = 0;                 // steps done
  int64_t updates = 0;              // of these, those whose update was applied
  int64_t micro_batches = 0;        // forward passes done: names the dropout masks of the next
  int64_t loader_position = 0;      // sequences consumed
  int64_t tokens = 0;               // targets in them, and in those that a rollback left behind
  int64_t records = 0;              // lines of metrics.jsonl
  bool evaluation_pending = false;  // a signal cut short the evaluation that belongs to this step
  /// The last of these lines, where the disk had not taken them: they are nowhere else.
  std::vector<std::string> unwritten;
  /// What must be the same for the run to go on as if never stopped: model, data, batch sizes, seed.
  nlohmann::ordered_json fixed;
  /// What changes results in the last bits only: threads, library version.
  nlohmann::ordered_json environment;
  /// What may change on the way, and is stated then: optimizer, schedule, steps.
  nlohmann::ordered_json settings;
  /// What other parts of the trainer keep, each under its own name.
  nlohmann::ordered_json more = nlohmann::ordered_json::object();
};

/// "model.dropout is 0.2, was 0.1" for everything that differs between two such trees.
std::vector<std::string> differences(const nlohmann::ordered_json& was, const nlohmann::ordered_json& is);

/// The parts of a checkpoint: those of the model's folder, optimizer and trainer state; add what else there is to keep.
FolderParts checkpoint_parts(FolderParts model, const AdamW& optimizer, const TrainerState& state);

TrainerState read_trainer_state(const fs::path& checkpoint);
/// Whether every file of it is as it was written.
bool is_whole(const fs::path& checkpoint);
/// Compares every file with the manifest. Throws Error naming what is damaged and the newest older checkpoint of the
/// run that is whole.
void verify_checkpoint(const fs::path& checkpoint);

struct SaveOptions {
  int64_t keep = 2;         // the newest
  int64_t major_every = 0;  // those of every so many steps stay for good; 0: none
  uint64_t max_shard_bytes = io::kMaxShardBytes;
};

class RunFolder {
 public:
  explicit RunFolder(fs::path path) : path_(std::move(path)) {}

  const fs::path& path() const { return path_; }
  fs::path config() const { return path_ / "config.toml"; }
  fs::path checkpoints() const { return path_ / "checkpoints"; }
  fs::path metrics() const { return path_ / "metrics.jsonl"; }
  /// The checkpoint that `latest` names; none where nothing was saved yet.
  std::optional<fs::path> latest() const;

  /// The checkpoints there, whole or not, the newest first: steps with their folders.
  std::vector<std::pair<int64_t, fs::path>> list() const;

  /// Makes the folder, claims it for this process (Error where another one trains in it), clears what a crash left.
  void open();
  void write_config(const std::string& toml) const;
  /// Publishes a checkpoint, then `latest`, then deletes those up to this step that are neither new nor major. Throws
  /// Error where the checkpoint was not published; then the ones before are untouched. An old one that cannot be
  /// deleted is left for the next save to try. Returns the bytes written.
  uint64_t save(const FolderParts& parts, int64_t step, const SaveOptions& options) const;
  /// Lets the run go on from this checkpoint of this folder, which `latest` then names. Later ones are abandoned: they
  /// are called abandoned-step-… from here on, which nothing but --resume PATH ever reads. Returns their new paths.
  std::vector<fs::path> go_on_from(const fs::path& checkpoint, int64_t step) const;

 private:
  void set_latest(const fs::path& checkpoint) const;
  void clear_unfinished() const;
  void prune(int64_t step, const SaveOptions& options) const;

  fs::path path_;
  std::shared_ptr<const void> lock_;
};

}  // namespace megalodon
