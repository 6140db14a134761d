// Where a run begins: afresh, or from a checkpoint that fits it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/task.h"

namespace megalodon {

/// Before the first step: with all that later checkpoints say about the run they are of.
TrainerState describe_run(const RunConfig& config, const Task& task, bool overfit_batch);

/// `mode` is "auto" (the folder's newest checkpoint that is whole, if it has one), "never", or the path of a checkpoint
/// or run folder. None: begin afresh. Throws Error where that would overwrite a run, where there is no such checkpoint,
/// or where it is damaged.
std::optional<fs::path> choose_checkpoint(const RunFolder& folder, const std::string& mode);

/// Whether it lies among the run's checkpoints.
bool is_of_run(const fs::path& checkpoint, const RunFolder& folder);

/// A line where "auto" chose another checkpoint than `latest` names; else "".
std::string note_of_choice(const RunFolder& folder, const fs::path& chosen);

/// Whether losses on the headline set compare: it is the same text, as far as it is evaluated.
bool has_same_headline(const TrainerState& saved, const TrainerState& now);

/// A line for everything that differs, may, and is better said.
std::vector<std::string> resume_notes(const TrainerState& saved, const TrainerState& now);

/// Throws Error listing what differs between the checkpoint's run and this one and must not. A hyperparameter that the
/// checkpoint does not know has its default value there.
void check_same_run(const fs::path& checkpoint, const TrainerState& saved, const nlohmann::ordered_json& fixed);

}  // namespace megalodon
