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

#include "base/progress.h"
#include "data/loader.h"
#include "data/tokenizer.h"
#include "train/checkpoint.h"
#include "train/metrics.h"
#include "train/run_config.h"
#include "train/step.h"

namespace megalodon {

/// How run() ended; everything is saved in each case.
enum class Outcome {
  kFinished,     // all steps done
  kStopped,      // at train.stop_after
  kInterrupted,  // by SIGINT
  kPreempted,    // by SIGTERM or SIGUSR1, as from a batch scheduler
};

/// 0, 0, 130 as shells report SIGINT, and 75 (EX_TEMPFAIL), on which a scheduler may requeue the job.
int exit_code(Outcome outcome);

struct TrainerOptions {
  std::string resume = "auto";  // see choose_checkpoint()
  bool overfit_batch = false;   // every step trains on the first step's sequences
  std::FILE* out = stdout;
};

class Trainer {
 public:
  /// Opens the data, builds the model, loads the checkpoint if there is one to resume. Writes nothing.
  Trainer(RunConfig config, TrainerOptions options = {});
  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Trains until all steps are done or a signal asks to stop; see SignalGuard.
  Outcome run();
  /// What run() would do: configuration, sizes, memory, and the measured time of a step that updates nothing.
  std::string dry_run();

  Model& model() { return *model_; }
  int64_t step() const { return state_.step; }

 private:
  struct StepReport {
    double loss = 0, norm = 0, lr = 0, seconds = 0;
  };

  nlohmann::ordered_json fixed() const;
  int64_t tokens_per_step() const;
  int64_t end_step() const;
  bool is_due(int64_t every) const { return every > 0 && state_.step % every == 0; }

  void resume(const fs::path& checkpoint);
  void start();
  std::string overview() const;
  std::vector<BatchTensors> next_batches();
  double backward(const std::vector<BatchTensors>& batches);
  StepReport train_step();
  void show(const StepReport& report);
  void evaluate_now();
  void sample_now();
  void save();
  Outcome finish(bool done);

  RunConfig config_;
  TrainerOptions options_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  data::TokenFile corpus_;
  std::optional<data::TokenFile> valid_;
  data::Loader loader_;
  std::unique_ptr<Model> model_;
  AdamW optimizer_;
  RunFolder folder_;
  TrainerState state_;
  std::optional<fs::path> resumed_from_;
  std::vector<std::string> notes_;  // about the resumption
  std::optional<MetricsLog> metrics_;
  Progress progress_;
  double smooth_loss_ = 0, smooth_seconds_ = 0;  // of the display
};

}  // namespace megalodon
