// What a trainer trains, on what, and how that is judged: language models on token files (language_modelling.h),
// classifiers on labelled sequences (classification.h). The trainer knows only this: steps, their order, the optimizer,
// checkpoints and display are the same for all.
#pragma once

#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "models/folder_parts.h"
#include "train/evaluation.h"
#include "train/guard.h"
#include "train/run_config.h"

namespace megalodon {

/// What steps are counted and measured in.
struct StepSize {
  const char* unit = "tokens";  // of what has a loss: tokens, or examples
  int64_t count = 0;            // of a step, padding included
  double flops = 0;             // of a step; 0: not known
};

class Task {
 public:
  virtual ~Task() = default;

  // ---- what is trained ----
  virtual torch::nn::Module& network() = 0;
  virtual torch::Device device() const = 0;
  /// Of all parameters, as a pure function of the seed.
  virtual void init_weights(uint64_t seed) = 0;
  /// A model folder's parts with these in place of the network's parameters, by the names of named_weights().
  virtual FolderParts folder(const NamedTensors& weights) const = 0;
  /// From such a folder's "model". Throws Error where the tensors are not those of the network.
  virtual void load_weights(const io::TensorFile& file) = 0;

  // ---- a step ----
  /// The batches of the step at the position, which moves on. False, with the position as it was, where `stop` says so
  /// before they are there.
  virtual bool read(const std::function<bool()>& stop) = 0;
  /// What was handed out: all there is to save.
  virtual int64_t position() const = 0;
  virtual void seek(int64_t position) = 0;
  /// Of the batches that were read, what has a loss.
  virtual int64_t targets() const = 0;
  /// Forward and backward over these batches. What they leave in the parameters' gradients is the gradient of the mean
  /// loss over all their targets, whatever the split into forward passes. `dropout_key(i)` is asked ahead of each.
  /// Returns that mean; as soon as it is not finite, without going on. None where `stop`, polled between passes, said
  /// so. Whatever else the step changes counts from settle(kApply) on.
  virtual std::optional<double> backward(const std::function<uint64_t(size_t)>& dropout_key,
                                         const std::function<bool()>& stop) = 0;
  /// After backward(): its update was applied; was left out (kSkip), so that what it computed is not to be trusted; or
  /// the step did not take place.
  virtual void settle(Verdict verdict) = 0;

  // ---- how it is judged ----
  virtual bool has_held_out() const = 0;
  /// On each held-out set, the headline first. `stop` is polled; `progress` gets the share of everything that is done,
  /// in [0, 1]. None if it was stopped.
  virtual std::optional<std::vector<NamedEvaluation>> evaluate(const std::function<bool()>& stop,
                                                               const std::function<void(double)>& progress) = 0;
  /// Text for people to read at this point of the training.
  virtual std::string sample(const std::function<bool()>& stop) = 0;

  // ---- what checkpoints hold besides ----
  /// Adds what must be there for the next step; load() reads it, from a checkpoint.
  virtual void save(FolderParts& parts) const = 0;
  virtual void load(const fs::path& checkpoint) = 0;
  /// What of the data must stay the same for a run to go on, and what losses are compared by: name and fingerprint of
  /// each held-out set, by its number from "1" on.
  virtual nlohmann::ordered_json fixed_data() const = 0;
  virtual nlohmann::ordered_json held_out_identity() const = 0;

  // ---- for people ----
  virtual int64_t parameters() const = 0;
  virtual StepSize step_size() const = 0;
  /// The lines of the overview on the network, its data and the steps.
  virtual std::vector<std::string> describe() const = 0;
};

/// As train.task says; opens the data and builds the network, whose parameters hold nothing meaningful yet. The
/// configuration must outlive it.
std::unique_ptr<Task> make_task(const RunConfig& config);

}  // namespace megalodon
