// The held-out corpora of a run, each with a name: data.valid lists "name=prefix" or a prefix, whose last part is then
// the name. The first one is the headline: what early stopping and people look at.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/token_files.h"
#include "train/step.h"

namespace megalodon {

class ValidationSets {
 public:
  /// Throws UsageError for names that are empty, not unique or unfit for a metric's name, Error where a file is
  /// missing, is another tokenizer's, holds ids that the model does not have, or has nothing to evaluate as `options`
  /// say.
  ValidationSets(const std::vector<std::string>& list, const ModelConfig& model, const data::Tokenizer& tokenizer,
                 EvaluationOptions options);

  bool empty() const { return sets_.empty(); }
  /// For people: one line for each.
  std::vector<std::string> describe() const;
  /// What losses are compared by: name and fingerprint of each, by its number from "1" on.
  nlohmann::ordered_json identity() const;
  /// The loss on each. `stop` is polled between batches; `progress` gets the share of everything that is done, in
  /// [0, 1]. None if it was stopped.
  std::optional<std::vector<NamedEvaluation>> evaluate(Model& model, const data::Tokenizer& tokenizer,
                                                       const std::function<bool()>& stop,
                                                       const std::function<void(double)>& progress) const;

 private:
  struct Set {
    std::string name;
    data::TokenFile corpus;
    std::string note;  // for people
  };
  std::vector<Set> sets_;
  EvaluationOptions options_;
};

/// {name, prefix} of an entry of data.valid.
std::pair<std::string, std::string> split_valid_entry(const std::string& entry);

}  // namespace megalodon
