// What a run tells while it goes on: metrics.jsonl for programs, TensorBoard's event files for curves, lines for
// people.
#pragma once

#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/progress.h"
#include "train/checkpoint_writer.h"
#include "train/guard.h"
#include "train/metrics.h"
#include "train/run_config.h"
#include "train/task.h"
#include "train/tensorboard.h"

namespace megalodon {

/// One step as it went.
struct StepReport {
  int64_t step = 0;  // the one that is now done, counted from 1
  double loss = 0, norm = 0, lr = 0;
  int64_t targets = 0, total_targets = 0;  // of this step, and of the run so far
  double seconds = 0;                      // of the whole step
  double data_wait = 0;                    // of these, waiting for data
  double save_wait = 0;                    // before it, standing still for a checkpoint
  Judgement judgement;
  int64_t skips = 0, rollbacks = 0;  // of the run
  int64_t gpu_bytes = 0;             // the most that the run's tensors took of a GPU so far; 0: there is none
};

class Monitor {
 public:
  /// `out` shows lines at once; files come with open().
  Monitor(const TrainConfig& config, StepSize size, std::FILE* out);

  /// Goes on with the run folder's files behind what `state` knows of; `goes_on`: the state is of this folder's run, so
  /// that its records are to be there.
  void open(const RunFolder& folder, const TrainerState& state, bool goes_on);
  /// Writes what a run that ended at `state` had no room for.
  static void complete(const RunFolder& folder, const TrainerState& state);
  /// The run goes back to `state`: what was written after it is dropped.
  void rewind(const TrainerState& state);
  /// Floating-point operations a second that steps are compared with; 0: nothing is.
  void set_peak(double flops) { peak_flops_ = flops; }
  /// The effective configuration, where curves are looked at.
  void configuration(int64_t step, const std::string& toml);
  /// Notes in `state` where its metrics.jsonl stands.
  void mark(TrainerState& state);

  void step(const StepReport& report);
  /// One record for all sets; `ema` are those of the averaged weights, if there are any.
  void evaluation(int64_t step, const std::vector<NamedEvaluation>& list, const std::vector<NamedEvaluation>& ema,
                  double seconds);
  /// Of the step `bad` to `step`.
  void rollback(int64_t step, const StepReport& bad);
  /// A checkpoint, or why there is none.
  void saved(const SaveReport& report);
  /// What is going on between two steps, for a terminal.
  void busy(int64_t step, std::string_view detail) { progress_.update(step, config_.steps, detail); }
  void print(std::string_view text) { progress_.print(text); }
  void finish() { progress_.finish(); }
  /// Ends the files. Throws Error naming those that the disk did not take all of.
  void close();

 private:
  std::vector<LogFile*> files();
  void record(const nlohmann::ordered_json& record);
  void show(const StepReport& report);

  TrainConfig config_;
  StepSize size_;
  Progress progress_;
  std::optional<MetricsLog> metrics_;
  std::optional<EventWriter> events_;
  double peak_flops_ = 0;
  double smooth_loss_ = 0, smooth_seconds_ = 0, smooth_targets_ = 0;  // of the display
};

}  // namespace megalodon
