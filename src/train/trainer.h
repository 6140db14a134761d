// The training loop: one place that ties configuration, data, model, optimizer, checkpoints and display together.
//
// A run is a function of its configuration: stopped anywhere and resumed, it computes the same bits as without the
// stop, because all that a step reads is in the checkpoint (weights, moments, counts) or a pure function of the seed
// and a count (data order, dropout). Evaluating and sampling read the model and change nothing.
#pragma once

#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "train/checkpoint_writer.h"
#include "train/early_stop.h"
#include "train/guard.h"
#include "train/monitor.h"
#include "train/run_config.h"
#include "train/signals.h"
#include "train/task.h"
#include "train/weight_average.h"

namespace megalodon {

/// How run() ended; everything is saved in each case.
enum class Outcome {
  kFinished,      // all steps done
  kStopped,       // at train.stop_after
  kEarlyStopped,  // the held-out loss no longer fell
  kInterrupted,   // by SIGINT
  kPreempted,     // by SIGTERM or SIGUSR1, as from a batch scheduler
};

/// 0, 0, 0, 130 as shells report SIGINT, and 75 (EX_TEMPFAIL), on which a scheduler may requeue the job.
int exit_code(Outcome outcome);
/// Of a run that a signal ended.
Outcome outcome_of_signal();

struct TrainerOptions {
  std::string resume = "auto";  // see choose_checkpoint()
  bool overfit_batch = false;   // every step trains on the first step's sequences
  bool dry_run = false;         // for dry_run() alone: the run folder is neither locked nor written
  std::FILE* out = stdout;
};

class Trainer {
 public:
  /// Opens the data, builds the model, claims the run folder and loads the checkpoint if there is one to resume.
  Trainer(RunConfig config, TrainerOptions options = {});
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains until all steps are done or a signal asks to stop, where somebody keeps a SignalGuard.
  Outcome run();
  /// What run() would do: configuration, sizes, memory, and the measured time of a step. Uses the trainer up.
  std::string dry_run();

  Task& task() { return *task_; }
  int64_t step() const { return state_.step; }

 private:
  bool done() const;
  bool is_due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  void begin();
  void start();
  std::string overview() const;
  void advance();
  void advance_or_save();
  std::optional<StepReport> train_step();
  std::optional<double> backward();
  void evaluate_now();
  void sample_now();
  Outcome finish();

  // In trainer_checkpoints.cc:
  void resume(const fs::path& checkpoint);
  void load(const fs::path& checkpoint, TrainerState saved);
  void go_on();
  FolderParts parts() const;
  void save();
  void save_if_due(bool last);
  void save_at_last();
  void report_saves();
  void roll_back(const StepReport& bad);

  RunConfig config_;
  TrainerOptions options_;
  std::unique_ptr<Task> task_;
  AdamW optimizer_;
  std::optional<WeightAverage> average_;
  UpdateGuard guard_;
  EarlyStop early_stop_;
  RunFolder folder_;
  TrainerState state_;
  bool unsaved_ = false;    // whether state_ differs from the newest checkpoint
  bool half_done_ = false;  // whether weights, moments and state_ are of different steps
  std::optional<fs::path> resumed_from_;
  std::vector<std::string> notes_;  // about the resumption
  std::optional<CheckpointWriter> writer_;
  double save_wait_ = 0;    // seconds that the run stood still for saving since the last step
  std::string save_error_;  // of the last save
  Monitor monitor_;
};

}  // namespace megalodon
