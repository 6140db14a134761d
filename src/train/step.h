// What a trainer computes from batches: the gradient of one optimizer step, and the loss on held-out text.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/loader.h"
#include "data/tokenizer.h"
#include "models/model.h"
#include "train/evaluation.h"

namespace megalodon {

struct BatchTensors {
  ModelInput input;
  Tensor targets_BL;
  bool continues = false;  // the rows go on where those of the batch before ended
};

/// Throws Error for tokens that the model does not know; `source` names the corpus in it.
BatchTensors to_tensors(const data::Batch& batch, const ModelConfig& config, const std::string& source);

/// Positions with a loss.
int64_t count_targets(const Tensor& targets_BL);
int64_t count_targets(const std::vector<BatchTensors>& batches);

/// Forward and backward over the micro-batches of one step. What they leave in the parameters' gradients is the
/// gradient of the mean loss over all their targets, whatever the split: each one's sum is divided by the targets of
/// all. `before(i)` is called ahead of micro-batch i. Returns that mean; as soon as it is not finite, without going on.
/// Micro-batches that continue each other do so through `carry`, which ends as what the next step begins with; null:
/// every row begins from nothing. None where `stop`, polled between micro-batches, said so.
std::optional<double> backward_mean_loss(Model& model, const std::vector<BatchTensors>& micro_batches,
                                         StreamCarry* carry, const std::function<void(size_t)>& before,
                                         const std::function<bool()>& stop = {});

struct EvaluationOptions {
  int64_t batch = 1, length = 0;
  int64_t tokens = 0;   // from the beginning of the corpus; 0: all
  int64_t segment = 1;  // sequences that a row may go on for, with its state, before it begins anew
  std::function<void(int64_t done, int64_t total)> progress = {};  // batches
  std::function<bool()> stop = {};                                 // polled between batches
};

/// Throws Error where the corpus has nothing to evaluate: too short for a sequence, or no token that follows another.
void check_can_evaluate(const data::TokenFile& corpus, const EvaluationOptions& options);

/// The loss on the corpus in order, in evaluation mode. Rows go on for as many sequences as their number leaves each of
/// them, at most options.segment. None if it was stopped.
std::optional<Evaluation> evaluate(Model& model, const data::TokenFile& corpus, const data::Tokenizer& tokenizer,
                                   const EvaluationOptions& options);

}  // namespace megalodon
