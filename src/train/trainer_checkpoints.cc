// The trainer and its checkpoints: resuming from one, saving one beside training, going back to the last.
#include <fmt/format.h>

#include "base/check.h"
#include "base/process.h"
#include "models/weights.h"
#include "train/resume.h"
#include "train/trainer.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

}  // namespace

void Trainer::resume(const fs::path& checkpoint) {
  TrainerState saved = read_trainer_state(checkpoint);
  check_same_run(checkpoint, saved, state_.fixed);
  notes_ = resume_notes(saved, state_);
  if (options_.resume == "auto") notes_.push_back(note_of_choice(folder_, checkpoint));
  load(checkpoint, std::move(saved));
  task_->load(checkpoint);
  task_->seek(state_.loader_position);
}

/// The checkpoint's weights, moments and counts; not where the data stands, nor what its rows carry.
void Trainer::load(const fs::path& checkpoint, TrainerState saved) {
  task_->load_weights(io::read_tensors(checkpoint, "model"));
  optimizer_.load_state(io::read_tensors(checkpoint, "optimizer"), saved.updates);
  if (average_) {
    const fs::path ema = checkpoint / "ema";
    if (io::has_tensors(ema, "model")) {
      const WeightAverage::Applied applied(*average_);  // what fits the network fits its average
      task_->load_weights(io::read_tensors(ema, "model"));
    } else {
      average_->reset();
    }
  }
  guard_.load_state(saved.more.value("guard", Json()));
  if (has_same_headline(saved, state_)) {
    early_stop_.load_state(saved.more.value("early_stop", Json()));
  } else {
    early_stop_.reset();
  }
  saved.environment = state_.environment;
  saved.settings = state_.settings;
  state_ = std::move(saved);
  state_.evaluation_pending =
      state_.evaluation_pending && task_->has_held_out();  // data.valid may have been taken away
}

/// Makes the choice of a checkpoint of this run last.
void Trainer::go_on() {
  if (!resumed_from_ || !is_of_run(*resumed_from_, folder_)) return;
  for (const fs::path& path : folder_.go_on_from(*resumed_from_, state_.step))
    notes_.push_back(fmt::format("note: a later checkpoint, which this run does not go on from, is now called {}",
                                 path.filename().string()));
}

/// All that a checkpoint consists of.
FolderParts Trainer::parts() const {
  FolderParts parts = checkpoint_parts(task_->folder(named_weights(task_->network())), optimizer_, state_);
  if (average_) parts.add("ema", task_->folder(average_->tensors()));
  task_->save(parts);
  return parts;
}

void Trainer::save() {
  const Stopwatch watch;
  monitor_.mark(state_);
  state_.more["guard"] = guard_.state();
  state_.more["early_stop"] = early_stop_.state();
  writer_->save(parts(), state_.step);
  unsaved_ = false;
  save_wait_ += watch.seconds();
}

/// A save that failed is made up for by the next one; where there is no next one, it is the run that failed.
void Trainer::save_if_due(bool last) {
  if (last) writer_->wait();
  report_saves();
  if (unsaved_ && (last || is_due(config_.train.save_every))) save();
  if (!last) return;
  writer_->wait();
  report_saves();
  check(!unsaved_, "[train] the last step, {}, could not be saved: {}", state_.step, save_error_);
}

/// Before an error ends the run, which stays the error that is reported. What was applied in part is not saved.
void Trainer::save_at_last() {
  if (!unsaved_ || half_done_) return;
  try {
    save_if_due(/*last=*/true);
  } catch (const std::exception& error) {
    monitor_.print(fmt::format("warning: {}", error.what()));
  }
}

void Trainer::report_saves() {
  for (const SaveReport& report : writer_->reports()) {
    monitor_.saved(report);
    save_error_ = report.error;
    if (report.step == state_.step && !report.error.empty()) unsaved_ = true;
  }
}

/// Back to the newest checkpoint, on with the data after the step that went wrong.
void Trainer::roll_back(const StepReport& bad) {
  writer_->wait();
  report_saves();
  const auto newest = choose_checkpoint(folder_, "auto");
  check(newest.has_value(), "[train] step {}: {}, and there is no checkpoint yet to go back to", bad.step,
        bad.judgement.reason);
  const int64_t micro_batches = state_.micro_batches, tokens = state_.tokens;
  const UpdateGuard before = guard_;
  half_done_ = true;
  task_->settle(Verdict::kSkip);  // not what the checkpoint's rows carry, which are of other text
  load(*newest, read_trainer_state(*newest));
  guard_.returned(before, state_.step, bad.step, bad.judgement.reason);
  // One that is there, but was not published whole: nobody is to go on from it.
  if (const auto all = folder_.list(); !all.empty() && all.front().first > state_.step)
    folder_.go_on_from(*newest, state_.step);
  state_.micro_batches = micro_batches + config_.train.accumulate;
  state_.loader_position = task_->position();
  state_.tokens = tokens + bad.targets;
  monitor_.rewind(state_);
  monitor_.rollback(state_.step, bad);
  half_done_ = false;
  unsaved_ = true;
}

}  // namespace megalodon
