// What language models share: embedding, a stack of layers, recomputed in the backward pass where asked for, final norm
// and output matrix.
#pragma once

#include <optional>

#include "models/adaptive_config.h"
#include "models/model.h"
#include "nn/adaptive_vocabulary.h"

namespace megalodon {

/// What cross-attention reads.
struct Memory {
  Tensor x_BJD;
  Tensor padding_BJ;  // bool, true at steps that nobody sees; undefined: none
};

/// One layer of a stack.
class StackedLayer : public torch::nn::Module {
 public:
  /// False for a layer that reads each step by itself: the carry has no slot for it.
  virtual bool has_state() const { return true; }
  /// [B,L,D] to [B,L,D]. State in and out through `carry` at `slot`.
  virtual Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                         uint64_t dropout_key) = 0;
  virtual void init_weights(uint64_t key) = 0;
  virtual void set_precision(nn::Precision precision) = 0;
  virtual std::vector<nn::Linear*> linears() = 0;
};

/// Parameters "embed.weight", "layers.<i>.*", and under "output." whatever the final norm has and, where the output
/// matrix is not the embedding, "output.weight"; of an adaptive vocabulary those of nn::AdaptiveVocabulary besides.
/// Layers with a state have the carry's slots 0, 1, …, in their order; an architecture's own come behind.
class LayerStack : public Model {
 public:
  const nn::Linear& output() const override { return output_; }
  std::vector<nn::Linear*> linears() override;
  Tensor hidden(const ModelInput& input, Carry& carry) override;
  Tensor logits_of(const Tensor& hidden, std::optional<nn::Precision> precision = {}) const override;
  void set_precision(nn::Precision precision) override;
  /// All but the final norm's.
  void init_weights(uint64_t seed) override;

 protected:
  /// `row_dropout` is on the numbers that a token has in the embedding.
  LayerStack(int64_t vocabulary, int64_t model_dim, const AdaptiveConfig& adaptive = {}, double row_dropout = 0);
  void add_layer(std::shared_ptr<StackedLayer> layer);
  /// After the final norm's parameters, whose order is the one that state dicts have.
  void add_output(int64_t outputs, bool is_embedding);

  /// What the first layer reads, of what the embedding has of each token.
  virtual Tensor embedded(const Tensor& rows_BLD, const ModelInput& input, Carry& carry) = 0;
  virtual Tensor final_norm(const Tensor& x_BLD, const ModelInput& input, Carry& carry) = 0;
  Tensor nll_of(const Tensor& hidden_BLD, const Tensor& targets_BL) const override;
  const Tensor& embedding() const { return embed_; }
  /// Of the matrices between the hidden features and the vocabulary.
  int64_t vocabulary_parameters() const;
  int64_t depth() const { return static_cast<int64_t>(layers_.size()); }

 private:
  Tensor rows(const Tensor& tokens_BL) const;
  Tensor run_layer(int64_t i, const Tensor& x_BLD, const ModelInput& input, Carry& carry);

  int64_t vocabulary_;
  AdaptiveConfig adaptive_;
  double row_dropout_;
  Tensor embed_;
  nn::Linear output_;
  std::optional<nn::AdaptiveVocabulary> bands_;
  std::shared_ptr<torch::nn::Module> list_;
  std::vector<std::shared_ptr<StackedLayer>> layers_;
  std::vector<int64_t> slots_;  // of each layer; of one without a state, that of the next
};

}  // namespace megalodon
