// The held-out corpora of a run, each with a name: data.valid lists "name=prefix" or a prefix, whose last part is then
// the name. The first one is the headline: what early stopping and people look at.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/token_files.h"
#include "train/step.h"

namespace megalodon {

struct NamedEvaluation {
  std::string name;
  Evaluation result;
};

class ValidationSets {
 public:
  /// Throws UsageError for names that are empty, not unique or unfit for a metric's name, Error where a file is
  /// missing or is another tokenizer's.
  ValidationSets(const std::vector<std::string>& list, const data::Tokenizer& tokenizer);

  bool empty() const { return sets_.empty(); }
  /// For people: one line for each.
  std::vector<std::string> describe() const;
  /// The loss on each. `progress` gets the share of everything that is done, in [0, 1]. None if it was stopped.
  std::optional<std::vector<NamedEvaluation>> evaluate(Model& model, const data::Tokenizer& tokenizer,
                                                       EvaluationOptions options,
                                                       const std::function<void(double)>& progress) const;

 private:
  struct Set {
    std::string name;
    data::TokenFile corpus;
  };
  std::vector<Set> sets_;
};

/// {name, prefix} of an entry of data.valid.
std::pair<std::string, std::string> split_valid_entry(const std::string& entry);

}  // namespace megalodon
