#include "train/language_modelling.h"

#include <nlohmann/json.hpp>

#include "base/progress.h"
#include "models/weights.h"
#include "ops/device.h"
#include "train/sample.h"

namespace megalodon {
namespace {

std::unique_ptr<Model> build_on_device(const RunConfig& config) {
  auto model = config.model->build();
  model->to(ops::parse_device(config.train.device));
  model->set_precision(config.train.compute_precision());
  model->set_checkpointing(config.train.checkpointing ? config.train.checkpoint_every : 0);
  model->train();
  return model;
}

}  // namespace

LanguageModelling::LanguageModelling(const RunConfig& config)
    : config_(config),
      tokenizer_(data::make_tokenizer(config.data.tokenizer)),
      data_(config.data, *config.model, *tokenizer_, config.train.accumulate, static_cast<uint64_t>(config.train.seed)),
      valid_(config.data.valid, *config.model, *tokenizer_,
             {.batch = config.data.batch,
              .length = config.data.seq_len,
              .tokens = config.train.eval_tokens,
              .segment = data_.segment()}),
      model_(build_on_device(config)) {
  if (config.data.packing == "stateful") carry_.emplace();
}

FolderParts LanguageModelling::folder(const NamedTensors& weights) const {
  FolderParts parts = model_parts(*config_.model, weights, tokenizer_->describe());
  for (auto& [name, text] : tokenizer_->files()) parts.texts.push_back({name, std::move(text)});
  return parts;
}

void LanguageModelling::load_weights(const io::TensorFile& file) {
  megalodon::load_weights(*model_, file);
}

bool LanguageModelling::read(const std::function<bool()>& stop) {
  auto batches = data_.next(stop);
  if (!batches) return false;
  batches_ = std::move(*batches);
  return true;
}

std::optional<double> LanguageModelling::backward(const std::function<uint64_t(size_t)>& dropout_key,
                                                  const std::function<bool()>& stop) {
  after_ = carry_;  // cheap
  return backward_mean_loss(
      *model_, batches_, after_ ? &*after_ : nullptr, [&](size_t i) { model_->set_dropout_key(dropout_key(i)); }, stop);
}

void LanguageModelling::settle(Verdict verdict) {
  if (!carry_ || verdict == Verdict::kRollback) return;
  if (verdict == Verdict::kApply)
    carry_ = std::move(after_);
  else
    carry_.emplace();  // what a bad step computed is not trusted: rows go on, but from nothing
}

std::optional<std::vector<NamedEvaluation>> LanguageModelling::evaluate(const std::function<bool()>& stop,
                                                                        const std::function<void(double)>& progress) {
  return valid_.evaluate(*model_, *tokenizer_, stop, progress);
}

std::string LanguageModelling::sample(const std::function<bool()>& stop) {
  const TrainConfig& train = config_.train;
  return sample_text(*model_, *tokenizer_, train.sample_prompt, train.sample_tokens, train.seed, stop);
}

void LanguageModelling::save(FolderParts& parts) const {
  if (carry_) parts.tensors.push_back({"carry", carry_->tensors()});
}

void LanguageModelling::load(const fs::path& checkpoint) {
  if (carry_) carry_->load(io::read_tensors(checkpoint, "carry"), device());
}

nlohmann::ordered_json LanguageModelling::fixed_data() const {
  nlohmann::ordered_json data = data_.fixed();
  data["tokenizer"] = tokenizer_->describe();
  return data;
}

/// The backward pass costs two forward passes. That activations may be computed twice is no progress and does not
/// count.
StepSize LanguageModelling::step_size() const {
  const int64_t tokens = config_.data.batch * config_.data.seq_len * config_.train.accumulate;
  return {"tokens", tokens, 3 * model_->info().mean_forward_flops(config_.data.seq_len) * static_cast<double>(tokens)};
}

std::vector<std::string> LanguageModelling::describe() const {
  const int64_t tokens = step_size().count, total = tokens * config_.train.steps;
  std::vector<std::string> lines = {
      fmt::format("model  {}, {} parameters", config_.arch, format_count(static_cast<double>(parameters())))};
  for (const std::string& line : data_.describe(total / config_.data.seq_len)) lines.push_back("data   " + line);
  for (const std::string& line : valid_.describe()) lines.push_back("valid  " + line);
  lines.push_back(fmt::format("steps  {} of {} tokens: {} tokens", config_.train.steps, tokens,
                              format_count(static_cast<double>(total))));
  return lines;
}

}  // namespace megalodon
