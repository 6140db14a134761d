#include "models/classifier.h"

#include <cmath>

#include "base/check.h"
#include "base/philox.h"
#include "models/config_checks.h"
#include "models/to_device.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/parameters.h"

namespace megalodon {

using nn::drop;
using nn::register_at;

namespace {

enum ClassifierSite : uint64_t { kOfFirst, kOfSecond, kOnHead };

}  // namespace

void ClassifierConfig::visit(config::Visitor& v) {
  v.field("input", input, "what a step is: tokens or vectors");
  v.field("vocab_size", vocab_size, "tokens, which an embedding maps to the encoder's width");
  v.field("input_dim", input_dim, "numbers of a vector, which a linear layer maps; pixels and samples of sound: 1");
  v.field("input_mean", input_mean,
          "subtracted from the numbers of vectors, which are in [0, 1] of pixels, [-1, 1] of sound");
  v.field("input_std", input_std, "what they are divided by then");
  v.field("max_steps", max_steps, "steps of a sequence that are read, the first ones; 0: all");
  v.field("classes", classes, "classes");
  v.field("pooling", pooling, "what is read of a sequence: mean (over its steps) or first (its first step)");
  v.field("head_layers", head_layers, "hidden layers between that and the logits, with gelu");
  v.field("head_dim", head_dim, "their width");
  v.field("output_bias", output_bias, "a bias in the logits");
  v.field("two_inputs", two_inputs, "classify pairs of sequences");
  v.field("dropout", dropout, "in the hidden layers of the head; the encoder has its own, on the embedding too");
}

void ClassifierConfig::validate() const {
  check_one_of("classifier.input", input, {"tokens", "vectors"});
  check_one_of("classifier.pooling", pooling, {"mean", "first"});
  check_sizes(
      {{"classifier.vocab_size", vocab_size}, {"classifier.input_dim", input_dim}, {"classifier.classes", classes}});
  check_sizes({{"classifier.head_layers", head_layers}, {"classifier.head_dim", head_dim}}, 0);
  if ((head_layers == 0) != (head_dim == 0))
    fail_usage("[classifier.head_dim] is the width of head_layers = {} hidden layers, got {}", head_layers, head_dim);
  check_probability("classifier.dropout", dropout);
  if (!std::isfinite(input_mean)) fail_usage("[classifier.input_mean] expected a number, got {}", input_mean);
  check_positive("classifier.input_std", input_std);
  check_size("classifier.max_steps", max_steps, 0);
}

SequenceClassifier::SequenceClassifier(const ClassifierConfig& config, std::shared_ptr<Encoder> encoder)
    : config_(config) {
  config.validate();
  const int64_t D = encoder->model_dim();
  const bool tokens = config.input == "tokens";
  embed_weight_ =
      register_at(*this, "embed.weight",
                  tokens ? std::vector<int64_t>{config.vocab_size, D} : std::vector<int64_t>{D, config.input_dim});
  if (!tokens) embed_bias_ = register_at(*this, "embed.bias", {D});
  encoder_ = register_module("encoder", std::move(encoder));
  int64_t width = config.two_inputs ? 2 * D : D;
  for (int64_t i = 0; i < config.head_layers; ++i) {
    head_.emplace_back(*this, "head." + std::to_string(i), width, config.head_dim, /*with_bias=*/true);
    width = config.head_dim;
  }
  output_ = nn::Linear(*this, "output", width, config.classes, config.output_bias);
}

void SequenceClassifier::init_weights(uint64_t seed) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  if (config_.input == "tokens") {
    nn::embedding(embed_weight_, derive_key(seed, stream++));
  } else {
    nn::init_linear(embed_weight_, "none", derive_key(seed, stream++));
    embed_bias_.zero_();
  }
  encoder_->init_weights(derive_key(seed, stream++));
  std::vector<nn::Linear> linears = head_;
  linears.push_back(output_);
  for (const nn::Linear& linear : linears) {
    nn::init_linear(linear.weight, "none", derive_key(seed, stream++));
    if (linear.bias.defined()) linear.bias.zero_();
  }
}

Tensor SequenceClassifier::pooled(const Sequences& sequences, uint64_t dropout_key) {
  const Tensor x = to_device(sequences.x, embed_weight_.device());
  const Tensor padding_BL = to_device(sequences.padding_BL, embed_weight_.device());
  const bool tokens = config_.input == "tokens";
  check(x.defined() && (tokens ? x.dim() == 2 && x.scalar_type() == torch::kInt64
                               : x.dim() == 3 && x.size(2) == config_.input_dim && x.is_floating_point()),
        "[classifier] expected {}, got {}",
        tokens ? "tokens int64 [B,L]" : fmt::format("vectors [B,L,{}]", config_.input_dim),
        x.defined() ? fmt::format("{} {}", torch::toString(x.scalar_type()), c10::str(x.sizes())) : "nothing");
  check(x.numel() > 0, "[classifier] expected sequences of at least one step, got {}", c10::str(x.sizes()));
  if (padding_BL.defined()) {
    check(padding_BL.sizes() == x.sizes().slice(0, 2) && padding_BL.scalar_type() == torch::kBool,
          "[classifier] expected padding bool {}, got {} {}", c10::str(x.sizes().slice(0, 2)),
          torch::toString(padding_BL.scalar_type()), c10::str(padding_BL.sizes()));
    const Tensor nothing_B = config_.pooling == "first" ? padding_BL.select(1, 0) : padding_BL.all(1);
    check(!nothing_B.any().item<bool>(), "[classifier] pooling = \"{}\" reads a step that row {} does not have",
          config_.pooling, nothing_B.to(torch::kInt64).argmax().item<int64_t>());
  }
  const auto vectors = [&] { return (x.to(embed_weight_.scalar_type()) - config_.input_mean) / config_.input_std; };
  const Tensor x_BLD =
      tokens ? torch::embedding(embed_weight_, x) : torch::linear(vectors(), embed_weight_, embed_bias_);
  const Tensor y_BLD = encoder_->forward(x_BLD, padding_BL, dropout_key);
  if (config_.pooling == "first") return y_BLD.select(1, 0);
  return padding_BL.defined() ? y_BLD.sum(1) / padding_BL.logical_not().sum(1, /*keepdim=*/true) : y_BLD.mean(1);
}

Tensor SequenceClassifier::representation(const Sequences& first, const Sequences& second) {
  check(config_.two_inputs == second.x.defined(), "[classifier] two_inputs = {} wants {}", config_.two_inputs,
        config_.two_inputs ? "a second sequence of each pair" : "no second sequence");
  const Tensor first_BD = pooled(first, derive_key(dropout_key_, kOfFirst));
  if (!config_.two_inputs) return first_BD;
  return torch::cat({pooled(second, derive_key(dropout_key_, kOfSecond)), first_BD}, 1);
}

Tensor SequenceClassifier::logits(const Sequences& first, const Sequences& second) {
  Tensor h_BD = representation(first, second);
  for (size_t i = 0; i < head_.size(); ++i)
    h_BD = torch::gelu(
        drop(head_[i](h_BD, nn::Precision::kFloat32), config_.dropout, dropout_key_, kOnHead + i, is_training()));
  return output_(h_BD, nn::Precision::kFloat32);
}

}  // namespace megalodon
