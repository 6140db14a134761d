#include "train/resume.h"

#include <fmt/ranges.h>

#include "base/check.h"
#include "models/weights.h"

namespace megalodon {

std::optional<fs::path> choose_checkpoint(const RunFolder& folder, const std::string& mode) {
  const auto latest = folder.latest();
  if (mode == "auto") {
    if (latest) verify_checkpoint(*latest);
    return latest;
  }
  if (mode == "never") {
    check(!latest && !fs::exists(folder.metrics()),
          "[train.out] '{}' already holds a run: continue it with --resume auto, or name another folder with "
          "--train.out",
          folder.path().string());
    return {};
  }
  check(fs::is_directory(mode), "[--resume] expected auto, never or a checkpoint folder; '{}' does not exist", mode);
  fs::path checkpoint = model_folder(mode);
  if (!checkpoint.has_filename()) checkpoint = checkpoint.parent_path();  // "step-00001000/"
  const auto home = fs::weakly_canonical(fs::absolute(checkpoint)).parent_path();
  check(!latest || home == fs::weakly_canonical(fs::absolute(folder.checkpoints())),
        "[--resume] '{}' is of another run than '{}', which has checkpoints of its own: name another folder with "
        "--train.out",
        checkpoint.string(), folder.path().string());
  verify_checkpoint(checkpoint);
  return checkpoint;
}

std::vector<std::string> resume_notes(const TrainerState& saved, const TrainerState& now) {
  std::vector<std::string> notes;
  for (const std::string& difference : differences(saved.settings, now.settings))
    notes.push_back(fmt::format("note: {}, from step {} on", difference, saved.step + 1));
  for (const std::string& difference : differences(saved.environment, now.environment))
    notes.push_back(
        fmt::format("note: {}; results may differ from those of an uninterrupted run in the last bits", difference));
  return notes;
}

void check_same_run(const fs::path& checkpoint, const TrainerState& saved, const nlohmann::ordered_json& fixed) {
  const auto list = differences(saved.fixed, fixed);
  check(list.empty(),
        "[--resume] '{}' cannot be continued with this configuration: {}. Change it back, or start another "
        "run with --train.out",
        checkpoint.string(), fmt::join(list, "; "));
}

}  // namespace megalodon
