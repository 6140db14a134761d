// Sequences to classes: an encoder of any architecture between an embedding of tokens, or of real vectors, and a head
// that reads one vector of each sequence.
//
//   x = E[token]  or  W (v − mean)/std + b            h = Σ_t y_t / steps  or  y_0,  y = Encoder(x)
//   h = gelu(W_i h + b_i)  for each layer of the head            logits = W h [+ b]
//
// Classifiers of pairs encode both sequences alike and read [h of the second ; h of the first].
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/config.h"
#include "models/encoder.h"

namespace megalodon {

struct ClassifierConfig {
  std::string input = "tokens";
  int64_t vocab_size = 256, input_dim = 1;
  double input_mean = 0, input_std = 1;
  int64_t max_steps = 0;
  int64_t classes = 2;
  std::string pooling = "mean";
  int64_t head_layers = 0, head_dim = 0;
  bool output_bias = true, two_inputs = false;
  double dropout = 0;

  void visit(config::Visitor& visitor);
  /// Throws UsageError naming the fields that do not fit together, and their values.
  void validate() const;
};

/// Sequences of one length, the shorter ones padded; on any device.
struct Sequences {
  Tensor x;           // tokens int64 [B,L], or vectors [B,L,I] of any floating type
  Tensor padding_BL;  // bool, true where a row has no step; undefined: nowhere. What x holds there changes nothing, nor
                      // does it that padding is there but for batch norms in training: see Encoder
};

/// Parameters "embed.weight" (tokens: [V,D], vectors: [D,I]), "embed.bias" of vectors, "encoder.*", "head.<i>.*",
/// "output.*". All but the encoder computes in the parameters' type.
class SequenceClassifier final : public torch::nn::Module {
 public:
  SequenceClassifier(const ClassifierConfig& config, std::shared_ptr<Encoder> encoder);
  /// [B,classes], for torch::cross_entropy_loss(). There is a second sequence of each pair if the configuration says
  /// two_inputs. Throws Error for what does not fit the configuration, and for a row without a step to pool.
  Tensor logits(const Sequences& first, const Sequences& second = {});
  /// What the head reads, [B,D] or, of pairs, [B,2D].
  Tensor representation(const Sequences& first, const Sequences& second = {});

  void init_weights(uint64_t seed);
  /// As of a Model.
  void set_dropout_key(uint64_t key) { dropout_key_ = key; }
  void set_precision(nn::Precision precision) { encoder_->set_precision(precision); }
  const ClassifierConfig& config() const { return config_; }
  const Encoder& encoder() const { return *encoder_; }

 private:
  Tensor pooled(const Sequences& sequences, uint64_t dropout_key);

  ClassifierConfig config_;
  uint64_t dropout_key_ = 0;
  Tensor embed_weight_, embed_bias_;
  std::shared_ptr<Encoder> encoder_;
  std::vector<nn::Linear> head_;
  nn::Linear output_;
};

}  // namespace megalodon
