#include "infer/classify.h"

#include <numeric>

#include "base/check.h"
#include "nn/evaluation_mode.h"

namespace megalodon {
namespace {

template <class T>
Tensor tensor_of(const std::vector<T>& values, const std::vector<int64_t>& shape, torch::ScalarType type) {
  return torch::from_blob(const_cast<T*>(values.data()), shape, type).clone();
}

Sequences to_sequences(const data::ExampleBatch::Side& side, int64_t examples, int64_t width) {
  Sequences sequences;
  if (side.vectors.empty())
    sequences.x = tensor_of(side.tokens, {examples, side.length}, torch::kInt64);
  else
    sequences.x = tensor_of(side.vectors, {examples, side.length, width}, torch::kFloat32);
  const Tensor lengths_B = tensor_of(side.lengths, {examples}, torch::kInt64);
  // Left undefined where no row is shorter: then nothing need look for padding.
  if ((lengths_B < side.length).any().item<bool>())
    sequences.padding_BL = torch::arange(side.length) >= lengths_B.unsqueeze(1);
  return sequences;
}

Sequences first_rows(const Sequences& sequences, int64_t rows) {
  if (!sequences.x.defined()) return {};
  return {sequences.x.narrow(0, 0, rows),
          sequences.padding_BL.defined() ? sequences.padding_BL.narrow(0, 0, rows) : Tensor()};
}

}  // namespace

LabelledBatch to_tensors(const data::ExampleBatch& batch, int64_t width) {
  LabelledBatch tensors;
  tensors.first = to_sequences(batch.sides.at(0), batch.examples, width);
  if (batch.sides.size() > 1) tensors.second = to_sequences(batch.sides[1], batch.examples, width);
  tensors.labels_B = tensor_of(batch.labels, {batch.examples}, torch::kInt64);
  return tensors;
}

void check_examples(const data::ExampleFile& file, const SequenceClassifier& model) {
  const ClassifierConfig& config = model.config();
  const std::string name = file.path().string();
  check(file.size() > 0, "[{}] expected examples, found none", name);
  const char* what = file.holds_tokens() ? "tokens" : "vectors";
  check(config.input == what, "[{}] holds {}, but classifier.input is \"{}\"", name, what, config.input);
  if (file.holds_tokens())
    check(file.largest_token() < config.vocab_size, "[{}] holds token {}, but classifier.vocab_size is {}", name,
          file.largest_token(), config.vocab_size);
  else
    check(file.width() == config.input_dim, "[{}] holds vectors of {} numbers, but classifier.input_dim is {}", name,
          file.width(), config.input_dim);
  check((file.sequences() == 2) == config.two_inputs, "[{}] holds {}, but classifier.two_inputs is {}", name,
        file.sequences() == 2 ? "pairs of sequences" : "single sequences", config.two_inputs);
  check(file.classes() == config.classes, "[{}] knows {} classes, but classifier.classes is {}", name, file.classes(),
        config.classes);
  const int64_t reach = model.encoder().longest();
  const int64_t steps = config.max_steps > 0 ? std::min(config.max_steps, file.longest()) : file.longest();
  check(reach == 0 || steps <= reach,
        "[{}] its longest sequence has {} steps, but the model's table of positions ends at {}: raise "
        "model.max_positions, or cut sequences with classifier.max_steps (now {})",
        name, file.longest(), reach, config.max_steps == 0 ? "0, all are read" : std::to_string(config.max_steps));
}

int64_t Classification::of_class(int64_t label) const {
  const auto row = confusion.begin() + label * classes;
  return std::accumulate(row, row + classes, int64_t{0});
}

double Classification::recall(int64_t label) const {
  const int64_t all = of_class(label);
  return all == 0 ? 0 : static_cast<double>(confusion[static_cast<size_t>(label * classes + label)]) / all;
}

double Classification::precision(int64_t label) const {
  int64_t taken = 0;
  for (int64_t i = 0; i < classes; ++i) taken += confusion[static_cast<size_t>(i * classes + label)];
  return taken == 0 ? 0 : static_cast<double>(confusion[static_cast<size_t>(label * classes + label)]) / taken;
}

std::optional<Classification> classify(SequenceClassifier& model, const data::ExampleFile& file,
                                       const ClassificationOptions& options) {
  torch::NoGradGuard no_grad;
  const nn::EvaluationMode mode(model);
  const ClassifierConfig& config = model.config();
  check_examples(file, model);
  const int64_t batch_size = std::min(options.batch, file.size());
  data::ExampleLoader loader(file, {.batch = batch_size, .longest = config.max_steps, .seed = 0, .shuffle = false});
  Classification result;
  result.classes = config.classes, result.examples = file.size();
  if (options.confusion) result.confusion.resize(static_cast<size_t>(config.classes * config.classes));
  double sum = 0;
  for (int64_t done = 0; done < file.size();) {
    if (options.stop && options.stop()) return {};
    const LabelledBatch batch = to_tensors(loader.next(), file.width());
    // The loader would begin anew where the set ends; nothing is counted twice.
    const int64_t rows = std::min(batch_size, file.size() - done);
    const Tensor logits_BC = model.logits(first_rows(batch.first, rows), first_rows(batch.second, rows));
    const Tensor log_p_BC = logits_BC.to(torch::kCPU, torch::kFloat32).log_softmax(1).contiguous();
    const Tensor taken_B = log_p_BC.argmax(1);
    for (int64_t row = 0; row < rows; ++row) {
      const auto label = batch.labels_B[row].item<int64_t>(), taken = taken_B[row].item<int64_t>();
      const float* log_p = log_p_BC.data_ptr<float>() + row * config.classes;
      result.correct += taken == label ? 1 : 0;
      if (options.confusion) ++result.confusion[static_cast<size_t>(label * config.classes + taken)];
      sum -= log_p[label];
      if (options.each) options.each(done + row, {log_p, static_cast<size_t>(config.classes)});
    }
    done += rows;
    if (options.progress) options.progress(done, file.size());
  }
  result.loss = sum / static_cast<double>(file.size());
  return result;
}

}  // namespace megalodon
