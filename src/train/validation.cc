#include "train/validation.h"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/progress.h"
#include "train/token_check.h"

namespace megalodon {
namespace {

bool is_metric_name(const std::string& name) {
  const auto allowed = [](unsigned char c) { return std::isalnum(c) || c == '_' || c == '-' || c == '.'; };
  return !name.empty() && std::all_of(name.begin(), name.end(), allowed);
}

}  // namespace

std::pair<std::string, std::string> split_valid_entry(const std::string& entry) {
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

ValidationSets::ValidationSets(const std::vector<std::string>& list, const ModelConfig& model,
                               const data::Tokenizer& tokenizer, EvaluationOptions options)
    : options_(std::move(options)) {
  for (const std::string& entry : list) {
    const auto [name, prefix] = split_valid_entry(entry);
    for (const Set& other : sets_)
      if (other.name == name) fail_usage("[data.valid] two corpora are called \"{}\"; give names: NAME=PREFIX", name);
    data::TokenFile corpus(prefix);
    std::string note = check_tokens(corpus, tokenizer, model);
    check_can_evaluate(corpus, options_);
    sets_.push_back({name, std::move(corpus), std::move(note)});
  }
}

std::vector<std::string> ValidationSets::describe() const {
  std::vector<std::string> lines;
  for (const Set& set : sets_)
    lines.push_back(fmt::format("{}, {}: {} tokens in {} documents{}{}", set.name, set.corpus.prefix().string(),
                                format_count(static_cast<double>(set.corpus.tokens())), set.corpus.documents(),
                                set.note.empty() ? "" : "; ", set.note));
  return lines;
}

nlohmann::ordered_json ValidationSets::identity() const {
  auto list = nlohmann::ordered_json::object();
  for (const Set& set : sets_)
    list[fmt::format("{}", list.size() + 1)] = {{"name", set.name}, {"fingerprint", set.corpus.fingerprint()}};
  return list;
}

std::optional<std::vector<NamedEvaluation>> ValidationSets::evaluate(
    Model& model, const data::Tokenizer& tokenizer, const std::function<bool()>& stop,
    const std::function<void(double)>& progress) const {
  EvaluationOptions options = options_;
  options.stop = stop;
  std::vector<NamedEvaluation> list;
  for (const Set& set : sets_) {
    options.progress = [&](int64_t done, int64_t total) {
      const double part = static_cast<double>(done) / static_cast<double>(total);
      if (progress) progress((static_cast<double>(list.size()) + part) / static_cast<double>(sets_.size()));
    };
    const auto result = megalodon::evaluate(model, set.corpus, tokenizer, options);
    if (!result) return {};
    list.push_back({set.name, *result});
  }
  return list;
}

}  // namespace megalodon
