#include "train/classification.h"

#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/progress.h"
#include "data/mixture.h"
#include "data/tokenizer.h"
#include "ops/device.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

/// The one set that data.train names.
std::string training_set(const DataConfig& config) {
  const auto entries = data::parse_mixture(config.train, "data.train");
  if (entries.size() != 1 || entries[0].weight != 0)
    fail_usage("[data.train] expected one set of examples, without a weight, got {}", fmt::join(config.train, ", "));
  return entries[0].prefix;
}

void check_same_classes(const data::ExampleFile& held_out, const data::ExampleFile& train) {
  check(held_out.class_names() == train.class_names(), "[{}] its classes are {}, but those of {} are {}",
        held_out.path().string(), fmt::join(held_out.class_names(), ", "), train.path().string(),
        fmt::join(train.class_names(), ", "));
}

std::vector<Tensor> copies(const std::vector<Tensor>& tensors) {
  std::vector<Tensor> list;
  for (const Tensor& tensor : tensors) list.push_back(tensor.clone());
  return list;
}

void fill(const std::vector<Tensor>& tensors, const std::vector<Tensor>& values) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < tensors.size(); ++i) Tensor(tensors[i]).copy_(values[i]);
}

std::unique_ptr<SequenceClassifier> build_on_device(const ClassifierDescription& description, const TrainConfig& train,
                                                    torch::Device device) {
  auto model = description.build();
  model->to(device);
  model->set_precision(train.compute_precision());
  model->train();
  return model;
}

std::string described(const data::ExampleFile& file) {
  return fmt::format(
      "{}: {} examples of {} classes, {} {}, {:.0f} steps on average, {} at most", file.path().string(), file.size(),
      file.classes(), file.sequences() == 2 ? "pairs of" : "sequences of", file.holds_tokens() ? "tokens" : "vectors",
      static_cast<double>(file.steps()) / static_cast<double>(file.size() * file.sequences()), file.longest());
}

}  // namespace

SequenceClassification::SequenceClassification(const RunConfig& config)
    : config_(config),
      device_(ops::parse_device(config.train.device)),
      train_(training_set(config.data)),
      valid_(config.data.valid),
      reader_(data::ExampleLoader(train_, {.batch = config.data.batch,
                                           .longest = config.classifier.max_steps,
                                           .seed = static_cast<uint64_t>(config.train.seed),
                                           .shuffle = true}),
              config.train.accumulate),
      description_{config.model->clone(), config.classifier, train_.class_names()} {
  for (const auto& [name, file] : valid_) check_same_classes(file, train_);
  if (train_.holds_tokens()) {
    const auto tokenizer = data::make_tokenizer(config.data.tokenizer);
    data::check_tokenizer(train_.tokenizer(), train_.path(), *tokenizer);
    for (const auto& [name, file] : valid_) data::check_tokenizer(file.tokenizer(), file.path(), *tokenizer);
    description_.tokenizer = tokenizer->describe();
    for (auto& [name, text] : tokenizer->files()) tokenizer_files_.push_back({name, std::move(text)});
  }
  model_ = build_on_device(description_, config.train, device_);
  check_examples(train_, *model_);
  for (const auto& [name, file] : valid_) check_examples(file, *model_);
}

FolderParts SequenceClassification::folder(const NamedTensors& weights) const {
  NamedTensors state = weights;
  for (const auto& item : model_->named_buffers()) state.emplace_back(item.key(), item.value());
  FolderParts parts = classifier_parts(description_, std::move(state));
  parts.texts.insert(parts.texts.end(), tokenizer_files_.begin(), tokenizer_files_.end());
  return parts;
}

bool SequenceClassification::read(const std::function<bool()>& stop) {
  const auto batches = reader_.next(stop);
  if (!batches) return false;
  batches_.clear();
  for (const data::ExampleBatch& batch : *batches) batches_.push_back(to_tensors(batch, train_.width()));
  return true;
}

int64_t SequenceClassification::targets() const {
  int64_t examples = 0;
  for (const LabelledBatch& batch : batches_) examples += batch.labels_B.size(0);
  return examples;
}

/// Forward passes move the running statistics of batch norms: until an update is applied, what they moved to is kept
/// apart.
std::optional<double> SequenceClassification::backward(const std::function<uint64_t(size_t)>& dropout_key,
                                                       const std::function<bool()>& stop) {
  const std::vector<Tensor> before = copies(model_->buffers());
  const auto put_apart = [&] {
    moved_ = copies(model_->buffers());
    fill(model_->buffers(), before);
  };
  std::optional<double> loss;
  try {
    loss = backward_all(dropout_key, stop);
  } catch (...) {
    put_apart();
    throw;
  }
  put_apart();
  return loss;
}

std::optional<double> SequenceClassification::backward_all(const std::function<uint64_t(size_t)>& dropout_key,
                                                           const std::function<bool()>& stop) {
  const auto examples = static_cast<double>(targets());
  double loss = 0;
  for (size_t i = 0; i < batches_.size(); ++i) {
    if (i > 0 && stop && stop()) return {};
    model_->set_dropout_key(dropout_key(i));
    const Tensor logits_BC = model_->logits(batches_[i].first, batches_[i].second);
    const Tensor nll =
        torch::cross_entropy_loss(logits_BC, batches_[i].labels_B.to(device_), /*weight=*/{}, at::Reduction::Sum);
    (nll / examples).backward();
    // Read behind the backward pass: on a GPU that waits for what is queued.
    loss += nll.item<double>() / examples;
    if (!std::isfinite(loss)) break;
  }
  return loss;
}

void SequenceClassification::settle(Verdict verdict) {
  if (verdict == Verdict::kApply) fill(model_->buffers(), moved_);
}

std::optional<std::vector<NamedEvaluation>> SequenceClassification::evaluate(
    const std::function<bool()>& stop, const std::function<void(double)>& progress) {
  return valid_.evaluate(progress, [&](const data::ExampleFile& file, const auto& show) -> std::optional<Evaluation> {
    const auto result = classify(*model_, file, {.batch = config_.data.batch, .progress = show, .stop = stop});
    if (!result) return {};
    return Evaluation{.loss = result->loss, .targets = result->examples, .accuracy = result->accuracy()};
  });
}

/// Where a set lies may change, and what it is called.
Json SequenceClassification::fixed_data() const {
  return {{"train", {{"examples", train_.size()}, {"fingerprint", train_.fingerprint()}}},
          {"batch", config_.data.batch},
          {"tokenizer", description_.tokenizer}};
}

StepSize SequenceClassification::step_size() const {
  return {"examples", config_.data.batch * config_.train.accumulate};
}

std::vector<std::string> SequenceClassification::describe() const {
  const int64_t examples = step_size().count, total = examples * config_.train.steps;
  std::vector<std::string> lines = {fmt::format("model  {} classifier, {} parameters", config_.arch,
                                                format_count(static_cast<double>(parameters())))};
  lines.push_back(fmt::format("data   {}, {:.2f} epochs", described(train_),
                              static_cast<double>(total) / static_cast<double>(train_.size())));
  for (const auto& [name, file] : valid_) lines.push_back(fmt::format("valid  {}, {}", name, described(file)));
  lines.push_back(fmt::format("steps  {} of {} examples: {} examples", config_.train.steps, examples,
                              format_count(static_cast<double>(total))));
  return lines;
}

}  // namespace megalodon
