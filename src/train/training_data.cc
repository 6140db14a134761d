#include "train/training_data.h"

#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "base/progress.h"

namespace megalodon {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);  // how soon a stop is noticed while the disk is slow

}  // namespace

TrainingData::TrainingData(const DataConfig& config, int64_t accumulate, uint64_t seed)
    : config_(config),
      accumulate_(accumulate),
      corpus_(config.train),
      loader_(corpus_, {config.batch, config.seq_len, seed}) {}

std::optional<std::vector<BatchTensors>> TrainingData::next(const ModelConfig& model,
                                                            const std::function<bool()>& stop) {
  if (!ahead_.valid()) read_ahead();
  while (ahead_.wait_for(kPoll) != std::future_status::ready)
    if (stop && stop()) return {};
  const std::vector<data::Batch> batches = ahead_.get();
  position_ = loader_.position();
  read_ahead();
  std::vector<BatchTensors> tensors;
  for (const data::Batch& batch : batches) tensors.push_back(to_tensors(batch, model, config_.train));
  return tensors;
}

void TrainingData::seek(int64_t position) {
  drop_read_ahead();
  loader_.seek(position);
  position_ = position;
}

void TrainingData::read_ahead() {
  // Plain arrays: libtorch would start threads of its own for every thread that touches a tensor.
  ahead_ = std::async(std::launch::async, [this] {
    std::vector<data::Batch> batches;
    for (int64_t i = 0; i < accumulate_; ++i) batches.push_back(loader_.next());
    return batches;
  });
}

void TrainingData::drop_read_ahead() {
  if (ahead_.valid()) ahead_.wait();
  ahead_ = {};
}

void TrainingData::check_tokenizer(const data::Tokenizer& tokenizer) const {
  data::check_tokenizer(corpus_, tokenizer);
}

nlohmann::ordered_json TrainingData::fixed() const {
  return {{"train", corpus_.prefix().filename().string()},
          {"tokens", corpus_.tokens()},
          {"documents", corpus_.documents()},
          {"seq_len", config_.seq_len},
          {"batch", config_.batch}};
}

std::string TrainingData::describe() const {
  return fmt::format("{}: {} tokens in {} documents", config_.train,
                     format_count(static_cast<double>(corpus_.tokens())), corpus_.documents());
}

}  // namespace megalodon
