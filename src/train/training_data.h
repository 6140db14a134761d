// What a language model trains on.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "train/run_config.h"
#include "train/step.h"
#include "train/step_reader.h"

namespace megalodon {

class TrainingData {
 public:
  /// Batches of `accumulate` forward passes. Throws Error where the token files do not fit, are another tokenizer's, or
  /// hold ids that the model does not have; files that nothing describes are read as a whole to find out. `model` must
  /// outlive this.
  TrainingData(const DataConfig& config, const ModelConfig& model, const data::Tokenizer& tokenizer, int64_t accumulate,
               uint64_t seed);

  /// The batches of the step at the current position, which moves on. None, with the position as it was, where `stop`
  /// says so before they are there.
  std::optional<std::vector<BatchTensors>> next(const std::function<bool()>& stop = {});
  /// Sequences handed out: all there is to save.
  int64_t position() const { return reader_.position(); }
  void seek(int64_t position) { reader_.seek(position); }
  /// Batches that continue each other; 1 where none do.
  int64_t segment() const { return reader_.loader().segment(); }

  /// What must stay the same for a run to continue; goes into TrainerState::fixed.
  nlohmann::ordered_json fixed() const;
  /// For people: one line per corpus, with what the first `sequences` take from it.
  std::vector<std::string> describe(int64_t sequences) const;

 private:
  DataConfig config_;
  const ModelConfig& model_;
  std::vector<data::MixtureEntry> entries_;
  std::vector<std::string> notes_;  // on each corpus, for people
  std::vector<data::TokenFile> corpora_;
  StepReader<data::Loader> reader_;
};

}  // namespace megalodon
