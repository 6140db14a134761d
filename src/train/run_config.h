// A training run as its run file describes it: [model], [classifier] where one is trained, [data], [optim] with
// [optim.schedule], [train].
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "base/file.h"
#include "models/classifier.h"
#include "models/model.h"
#include "train/guard.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace megalodon {

struct DataConfig {
  std::vector<std::string> train;  // prefixes of .bin/.idx pairs, or PREFIX*WEIGHT
  std::vector<std::string> valid;  // prefixes, or NAME=PREFIX
  std::string tokenizer = "bytes";
  int64_t seq_len = 2048, batch = 1;
  std::string packing = "stream";
  int64_t segment = 0;
  void visit(config::Visitor& visitor);
  void validate() const;
};

struct TrainConfig {
  std::string task = "language_modelling";
  int64_t steps = 1000, accumulate = 1, seed = 0;
  std::string out = "runs/run";
  std::string precision = "float32";
  bool checkpointing = false;
  int64_t checkpoint_every = 1;
  std::string device = "cpu";
  int64_t threads = 0;
  int64_t eval_every = 0, eval_tokens = 262144;
  int64_t sample_every = 0, sample_tokens = 200;
  std::string sample_prompt = "The ";
  int64_t save_every = 1000, keep = 2, major_every = 0;
  double shard_gb = 5;
  bool async_save = true;
  int64_t log_every = 10, stop_after = 0;
  double grace_seconds = 0;
  bool tensorboard = true, measure_peak = true;
  GuardConfig guard;
  double ema_decay = 0;
  bool eval_ema = false;
  int64_t early_stop_patience = 0;
  double early_stop_min_delta = 0;
  void visit(config::Visitor& visitor);
  void validate() const;
  bool classifies() const { return task == "classification"; }
  nn::Precision compute_precision() const {
    return precision == "bfloat16" ? nn::Precision::kBfloat16 : nn::Precision::kFloat32;
  }
  /// Where this process stops, if nothing stops it earlier.
  int64_t last_step() const { return stop_after > 0 ? std::min(steps, stop_after) : steps; }
};

struct RunConfig {
  RunConfig();
  RunConfig(const RunConfig& other);
  RunConfig(RunConfig&&) = default;
  RunConfig& operator=(RunConfig&&) = default;

  std::string arch = "megalodon", preset;
  std::unique_ptr<ModelConfig> model;  // never null; of the architecture `arch`
  ClassifierConfig classifier;         // around it, where classifiers are trained
  DataConfig data;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainConfig train;

  void visit(config::Visitor& visitor);
  /// Throws UsageError for values that are out of range or do not fit together.
  void validate() const;

 private:
  void validate_language_modelling() const;
  void validate_classification() const;
};

/// Reads and validates a run file. Defaults come from the architecture or, where one is named, from the preset; without
/// a preset the vocabulary is the tokenizer's unless the file says otherwise.
RunConfig load_run_config(const fs::path& path, const config::Overrides& overrides);

/// The complete configuration as a run file that loads to the same values.
std::string to_toml(const RunConfig& config);

/// Every key of a run file with its default, for --help.
std::string run_config_help();

}  // namespace megalodon
