// What language models share: embedding, a stack of layers, recomputed in the backward pass where asked for, final norm
// and output matrix.
#pragma once

#include "models/model.h"

namespace megalodon {

/// What cross-attention reads.
struct Memory {
  Tensor x_BJD;
  Tensor padding_BJ;  // bool, true at steps that nobody sees; undefined: none
};

/// One layer of a stack.
class StackedLayer : public torch::nn::Module {
 public:
  /// [B,L,D] to [B,L,D]. State in and out through `carry` at `slot`.
  virtual Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                         uint64_t dropout_key) = 0;
  virtual void init_weights(uint64_t key) = 0;
  virtual void set_precision(nn::Precision precision) = 0;
  virtual std::vector<nn::Linear*> linears() = 0;
};

/// Parameters "embed.weight", "layers.<i>.*", and under "output." whatever the final norm has and, where the output
/// matrix is not the embedding, "output.weight". Layer i's slot of the carry is i; an architecture's own come behind.
class LayerStack : public Model {
 public:
  const nn::Linear& output() const override { return output_; }
  std::vector<nn::Linear*> linears() override;
  Tensor hidden(const ModelInput& input, Carry& carry) override;
  void set_precision(nn::Precision precision) override;
  /// All but the final norm's.
  void init_weights(uint64_t seed) override;

 protected:
  LayerStack(int64_t vocabulary, int64_t model_dim);
  void add_layer(std::shared_ptr<StackedLayer> layer);
  /// After the final norm's parameters, whose order is the one that state dicts have.
  void add_output(int64_t outputs, bool is_embedding);

  /// The tokens' rows of the embedding.
  virtual Tensor rows(const Tensor& tokens_BL) const;
  /// What the first layer reads, of the tokens' rows of the embedding.
  virtual Tensor embedded(const Tensor& rows_BLD, const ModelInput& input, Carry& carry) = 0;
  virtual Tensor final_norm(const Tensor& x_BLD, const ModelInput& input, Carry& carry) = 0;
  const Tensor& embedding() const { return embed_; }
  int64_t depth() const { return static_cast<int64_t>(layers_.size()); }

 private:
  Tensor run_layer(int64_t i, const Tensor& x_BLD, const ModelInput& input, Carry& carry);

  Tensor embed_;
  nn::Linear output_;
  std::shared_ptr<torch::nn::Module> list_;
  std::vector<std::shared_ptr<StackedLayer>> layers_;
};

}  // namespace megalodon
