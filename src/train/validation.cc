#include "train/validation.h"

#include <algorithm>
#include <cctype>

#include "base/check.h"
#include "base/progress.h"
#include "train/token_check.h"

namespace megalodon {
namespace {

bool is_metric_name(const std::string& name) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; };
  return !name.empty() && std::all_of(name.begin(), name.end(), allowed);
}

std::pair<std::string, std::string> split_entry(const std::string& entry) {
  const size_t equals = entry.find('=');
  // A path may hold an equals sign too, but then a slash comes first.
  const bool named = equals != std::string::npos && entry.find('/') > equals;
  auto split = named ? std::pair(entry.substr(0, equals), entry.substr(equals + 1))
                     : std::pair(fs::path(entry).filename().string(), entry);
  if (!is_metric_name(split.first) || split.second.empty())
    fail_usage(
        "[data.valid] expected PREFIX or NAME=PREFIX with a name of letters, digits, '_', '-' and '.', got \"{}\"",
        entry);
  return split;
}

}  // namespace

std::vector<std::pair<std::string, std::string>> split_valid_entries(const std::vector<std::string>& list) {
  std::vector<std::pair<std::string, std::string>> entries;
  for (const std::string& entry : list) {
    auto split = split_entry(entry);
    for (const auto& [name, prefix] : entries)
      if (name == split.first) fail_usage("[data.valid] two sets are called \"{}\"; give names: NAME=PREFIX", name);
    entries.push_back(std::move(split));
  }
  return entries;
}

ValidationSets::ValidationSets(const std::vector<std::string>& list, const ModelConfig& model,
                               const data::Tokenizer& tokenizer, EvaluationOptions options)
    : sets_(list), options_(std::move(options)) {
  for (const auto& [name, corpus] : sets_) {
    notes_.push_back(check_tokens(corpus, tokenizer, model));
    check_can_evaluate(corpus, options_);
  }
}

std::vector<std::string> ValidationSets::describe() const {
  std::vector<std::string> lines;
  for (const auto& [name, corpus] : sets_) {
    const std::string& note = notes_[lines.size()];
    lines.push_back(fmt::format("{}, {}: {} tokens in {} documents{}{}", name, corpus.prefix().string(),
                                format_count(static_cast<double>(corpus.tokens())), corpus.documents(),
                                note.empty() ? "" : "; ", note));
  }
  return lines;
}

std::optional<std::vector<NamedEvaluation>> ValidationSets::evaluate(
    Model& model, const data::Tokenizer& tokenizer, const std::function<bool()>& stop,
    const std::function<void(double)>& progress) const {
  return sets_.evaluate(progress, [&](const data::TokenFile& corpus, const auto& show) {
    EvaluationOptions options = options_;
    options.stop = stop, options.progress = show;
    return megalodon::evaluate(model, corpus, tokenizer, options);
  });
}

}  // namespace megalodon
