// The held-out sets of a run, each with a name: data.valid lists "name=prefix" or a prefix, whose last part is then the
// name. The first one is the headline: what early stopping and people look at.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/token_files.h"
#include "train/step.h"

namespace megalodon {

/// {name, prefix} of each entry of data.valid. Throws UsageError for names that are empty, not unique or unfit for a
/// metric's name.
std::vector<std::pair<std::string, std::string>> split_valid_entries(const std::vector<std::string>& list);

/// Of one kind of file: token files, or labelled sequences.
template <class File>
class HeldOutSets {
 public:
  struct Set {
    std::string name;
    File file;
  };

  /// Opens the files of data.valid.
  explicit HeldOutSets(const std::vector<std::string>& list) {
    for (auto& [name, prefix] : split_valid_entries(list)) sets_.push_back({name, File(prefix)});
  }

  bool empty() const { return sets_.empty(); }
  auto begin() const { return sets_.begin(); }
  auto end() const { return sets_.end(); }

  /// What losses are compared by: name and fingerprint of each, by its number from "1" on.
  nlohmann::ordered_json identity() const {
    auto list = nlohmann::ordered_json::object();
    for (const Set& set : sets_)
      list[fmt::format("{}", list.size() + 1)] = {{"name", set.name}, {"fingerprint", set.file.fingerprint()}};
    return list;
  }

  /// judge(file, show) on each: an Evaluation, or none where it was stopped, and then none of all. show(done, total)
  /// becomes `progress`, the share of everything that is done, in [0, 1].
  template <class Judge>
  std::optional<std::vector<NamedEvaluation>> evaluate(const std::function<void(double)>& progress,
                                                       const Judge& judge) const {
    std::vector<NamedEvaluation> list;
    for (const Set& set : sets_) {
      const auto show = [&](int64_t done, int64_t total) {
        const double part = static_cast<double>(done) / static_cast<double>(total);
        if (progress) progress((static_cast<double>(list.size()) + part) / static_cast<double>(sets_.size()));
      };
      const std::optional<Evaluation> result = judge(set.file, show);
      if (!result) return {};
      list.push_back({set.name, *result});
    }
    return list;
  }

 private:
  std::vector<Set> sets_;
};

/// The held-out corpora of a language model.
class ValidationSets {
 public:
  /// Throws UsageError as split_valid_entries(), Error where a file is missing, is another tokenizer's, holds ids that
  /// the model does not have, or has nothing to evaluate as `options` say.
  ValidationSets(const std::vector<std::string>& list, const ModelConfig& model, const data::Tokenizer& tokenizer,
                 EvaluationOptions options);

  bool empty() const { return sets_.empty(); }
  /// For people: one line for each.
  std::vector<std::string> describe() const;
  nlohmann::ordered_json identity() const { return sets_.identity(); }
  /// The loss on each. `stop` is polled between batches; `progress` gets the share of everything that is done, in
  /// [0, 1]. None if it was stopped.
  std::optional<std::vector<NamedEvaluation>> evaluate(Model& model, const data::Tokenizer& tokenizer,
                                                       const std::function<bool()>& stop,
                                                       const std::function<void(double)>& progress) const;

 private:
  HeldOutSets<data::TokenFile> sets_;
  std::vector<std::string> notes_;  // on each, for people
  EvaluationOptions options_;
};

}  // namespace megalodon
