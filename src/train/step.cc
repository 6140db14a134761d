#include "train/step.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "nn/evaluation_mode.h"

namespace megalodon {
namespace {

/// An owning [batch, length] tensor of the array.
template <class T>
Tensor matrix(const std::vector<T>& values, const data::Batch& batch, torch::ScalarType type) {
  return torch::from_blob(const_cast<T*>(values.data()), {batch.batch, batch.length}, type).clone();
}

/// Whether a document begins where a model does not take it for granted, as it does at the first position of a row that
/// goes on from nothing.
bool has_news_of_starts(const data::Batch& batch) {
  for (int64_t row = 0; row < batch.batch; ++row) {
    const auto begin = batch.starts.begin() + row * batch.length, end = begin + batch.length;
    if (std::find(batch.continues ? begin : begin + 1, end, uint8_t{1}) != end) return true;
  }
  return false;
}

/// Bytes of text that the targets stand for.
int64_t count_bytes(const Tensor& targets_BL, const data::Tokenizer& tokenizer) {
  const Tensor flat = targets_BL.contiguous();
  const auto* targets = flat.data_ptr<int64_t>();
  int64_t bytes = 0;
  for (int64_t i = 0; i < flat.numel(); ++i)
    if (targets[i] != data::kIgnoreTarget)
      bytes += static_cast<int64_t>(tokenizer.decode(static_cast<int32_t>(targets[i])).size());
  return bytes;
}

/// The batch after what `carry` holds, if it goes on from there. Null: every row begins from nothing, and nobody pays
/// for final states.
Tensor nll_after(Model& model, const ModelInput& input, const Tensor& targets_BL, bool continues, StreamCarry* carry) {
  NoCarry none;
  if (carry != nullptr && !continues) carry->slots().clear();
  return model.nll(input, targets_BL, carry != nullptr ? static_cast<Carry&>(*carry) : none);
}

/// What an evaluation covers: the corpus's first `segments`, each of `sequences` that go on.
struct Extent {
  int64_t segments = 0, sequences = 1;
  int64_t total() const { return segments * sequences; }
};

Extent extent(const data::TokenFile& corpus, const EvaluationOptions& options) {
  int64_t total = data::Loader(corpus, {1, options.length, /*seed=*/0, /*shuffle=*/false}).sequences_per_epoch();
  if (options.tokens > 0) total = std::min(total, std::max<int64_t>(options.tokens / options.length, 1));
  const int64_t sequences = std::clamp<int64_t>(total / options.batch, 1, options.segment);
  return {total / sequences, sequences};
}

/// Error where it has nothing to evaluate.
Extent checked_extent(const data::TokenFile& corpus, const EvaluationOptions& options) {
  const Extent covered = extent(corpus, options);
  const int64_t end = covered.total() * options.length;  // the last target is the token at `end`
  for (int64_t i = 0; i < corpus.documents() && corpus.document_begin(i) < end; ++i)
    if (corpus.document_length(i) > 1) return covered;
  fail("[data.valid] '{}' has no token that follows another among its first {}", corpus.prefix().string(), end + 1);
}

}  // namespace

int64_t count_targets(const Tensor& targets_BL) {
  return (targets_BL != data::kIgnoreTarget).sum().item<int64_t>();
}

int64_t count_targets(const std::vector<BatchTensors>& batches) {
  int64_t targets = 0;
  for (const BatchTensors& batch : batches) targets += count_targets(batch.targets_BL);
  return targets;
}

BatchTensors to_tensors(const data::Batch& batch, const ModelConfig& config, const std::string& source) {
  for (const int64_t token : batch.tokens)
    check(token >= 0 && token < config.vocabulary(), "[{}] holds token {}, but the model's vocabulary is {}", source,
          token, config.vocabulary());
  for (const int64_t target : batch.targets)
    check(target == data::kIgnoreTarget || (target >= 0 && target < config.outputs()),
          "[{}] holds token {}, but the model predicts only {} tokens", source, target, config.outputs());
  BatchTensors tensors;
  tensors.input.tokens_BL = matrix(batch.tokens, batch, torch::kInt64);
  tensors.targets_BL = matrix(batch.targets, batch, torch::kInt64);
  tensors.continues = batch.continues;
  // Left undefined where it would say nothing new: operators then need not look for starts at every step.
  if (has_news_of_starts(batch)) tensors.input.starts_BL = matrix(batch.starts, batch, torch::kUInt8).to(torch::kBool);
  return tensors;
}

std::optional<double> backward_mean_loss(Model& model, const std::vector<BatchTensors>& micro_batches,
                                         StreamCarry* carry, const std::function<void(size_t)>& before,
                                         const std::function<bool()>& stop) {
  const int64_t targets = count_targets(micro_batches);
  check(targets > 0, "[train] no position of the batch has a target: its documents are one token long");
  double loss = 0;
  for (size_t i = 0; i < micro_batches.size(); ++i) {
    if (i > 0 && stop && stop()) return {};
    before(i);
    const BatchTensors& batch = micro_batches[i];
    const Tensor nll_BL = nll_after(model, batch.input, batch.targets_BL, batch.continues, carry);
    (nll_BL.sum() / static_cast<double>(targets)).backward();
    // Read behind the backward pass: on a GPU that waits for what is queued.
    loss += nll_BL.detach().sum(torch::kFloat64).item<double>() / static_cast<double>(targets);
    if (!std::isfinite(loss)) break;
  }
  return loss;
}

void check_can_evaluate(const data::TokenFile& corpus, const EvaluationOptions& options) {
  checked_extent(corpus, options);
}

std::optional<Evaluation> evaluate(Model& model, const data::TokenFile& corpus, const data::Tokenizer& tokenizer,
                                   const EvaluationOptions& options) {
  torch::NoGradGuard no_grad;
  const nn::EvaluationMode mode(model);
  const auto [segments, sequences] = checked_extent(corpus, options);
  data::Loader loader(
      corpus, {options.batch, options.length, /*seed=*/0, /*shuffle=*/false, data::Packing::kStateful, sequences});
  const int64_t batches = (segments + options.batch - 1) / options.batch * sequences;
  double sum = 0;
  int64_t bytes = 0;
  StreamCarry carry;
  Evaluation result;
  for (int64_t done = 0; done < batches; ++done) {
    if (options.stop && options.stop()) return {};
    BatchTensors batch = to_tensors(loader.next(), model.config(), corpus.prefix().string());
    // The loader would begin anew where the corpus ends; nothing is counted twice.
    const int64_t rows = std::min(options.batch, segments - done / sequences * options.batch);
    const Tensor targets_BL = batch.targets_BL.narrow(0, 0, rows);
    batch.input.tokens_BL = batch.input.tokens_BL.narrow(0, 0, rows);
    if (batch.input.starts_BL.defined()) batch.input.starts_BL = batch.input.starts_BL.narrow(0, 0, rows);
    sum += nll_after(model, batch.input, targets_BL, batch.continues, sequences > 1 ? &carry : nullptr)
               .sum(torch::kFloat64)
               .item<double>();
    result.targets += count_targets(targets_BL);
    bytes += count_bytes(targets_BL, tokenizer);
    if (options.progress) options.progress(done + 1, batches);
  }
  result.loss = sum / static_cast<double>(result.targets);
  result.bits_per_byte = sum / std::log(2.0) / static_cast<double>(bytes);
  return result;
}

}  // namespace megalodon
