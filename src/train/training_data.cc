#include "train/training_data.h"

#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/progress.h"
#include "train/token_check.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

std::vector<data::TokenFile> open(const std::vector<data::MixtureEntry>& entries, const data::Tokenizer& tokenizer,
                                  const ModelConfig& model, std::vector<std::string>& notes) {
  std::vector<data::TokenFile> files;
  for (const data::MixtureEntry& entry : entries)
    notes.push_back(check_tokens(files.emplace_back(entry.prefix), tokenizer, model));
  return files;
}

std::vector<data::Corpus> weighted(const std::vector<data::TokenFile>& files,
                                   const std::vector<data::MixtureEntry>& entries) {
  std::vector<data::Corpus> corpora;
  for (size_t i = 0; i < files.size(); ++i) corpora.push_back({&files[i], entries[i].weight});
  return corpora;
}

}  // namespace

TrainingData::TrainingData(const DataConfig& config, const ModelConfig& model, const data::Tokenizer& tokenizer,
                           int64_t accumulate, uint64_t seed)
    : config_(config),
      model_(model),
      entries_(data::parse_mixture(config.train, "data.train")),
      corpora_(open(entries_, tokenizer, model, notes_)),
      reader_(data::Loader(weighted(corpora_, entries_), {.batch = config.batch,
                                                          .length = config.seq_len,
                                                          .seed = seed,
                                                          .packing = data::parse_packing(config.packing),
                                                          .segment = config.segment}),
              accumulate) {}

std::optional<std::vector<BatchTensors>> TrainingData::next(const std::function<bool()>& stop) {
  const auto batches = reader_.next(stop);
  if (!batches) return {};
  std::vector<BatchTensors> tensors;
  for (const data::Batch& batch : *batches)
    tensors.push_back(to_tensors(batch, model_, fmt::format("{}", fmt::join(config_.train, ", "))));
  return tensors;
}

/// Where a corpus lies may change, and what it is called.
Json TrainingData::fixed() const {
  Json corpora;
  for (size_t i = 0; i < corpora_.size(); ++i)
    corpora[fmt::format("{}", i + 1)] = {{"tokens", corpora_[i].tokens()},
                                         {"documents", corpora_[i].documents()},
                                         {"fingerprint", corpora_[i].fingerprint()},
                                         {"weight", entries_[i].weight}};
  return {{"train", corpora},
          {"seq_len", config_.seq_len},
          {"batch", config_.batch},
          {"packing", config_.packing},
          {"segment", segment()}};
}

std::vector<std::string> TrainingData::describe(int64_t sequences) const {
  const auto uses = reader_.loader().uses(sequences);
  std::vector<std::string> lines;
  for (size_t i = 0; i < uses.size(); ++i) {
    std::string line = fmt::format("{}: {} tokens in {} documents", entries_[i].prefix,
                                   format_count(static_cast<double>(corpora_[i].tokens())), corpora_[i].documents());
    if (uses.size() > 1) line += fmt::format(", {:.1f} % of the tokens", 100 * uses[i].share);
    line += fmt::format(", {:.2f} epochs", uses[i].epochs);
    if (config_.packing == "documents") line += fmt::format(", sequences {:.1f} % full", 100 * uses[i].fill);
    if (!notes_[i].empty()) line += "; " + notes_[i];
    lines.push_back(std::move(line));
  }
  if (config_.packing == "stateful")
    lines.push_back(fmt::format("rows go on for {} sequences of {} tokens", segment(), config_.seq_len));
  return lines;
}

}  // namespace megalodon
