// What classifiers stand on: layers that read whole sequences, where every step sees what is before and behind it.
#pragma once

#include "models/layer_stack.h"

namespace megalodon {

/// x [B,L,D], zero where padding (bool [B,L]; undefined: none) is true, whatever it held there.
Tensor zero_padding(const Tensor& x_BLD, const Tensor& padding_BL);

class Encoder : public torch::nn::Module {
 public:
  /// [B,L,D] to [B,L,D]. padding_BL: bool, true where a row has no step; undefined: nowhere. What x holds there changes
  /// nothing, and the result is zero there. That there is padding changes no step either, but for batch norms in
  /// training, whose statistics count it as the published ones do. x itself is dropped in training as its configuration
  /// says.
  virtual Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t dropout_key) = 0;
  virtual int64_t model_dim() const = 0;
  /// Steps of the longest sequence that it takes, where tables of positions end; 0: there is no end.
  virtual int64_t longest() const { return 0; }
  /// A pure function of the seed.
  virtual void init_weights(uint64_t seed) = 0;
  virtual void set_precision(nn::Precision precision) = 0;
};

/// One made of layers, behind dropout. Parameters "layers.<i>.*", and whatever the final norm has.
class LayeredEncoder : public Encoder {
 public:
  Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t dropout_key) override;
  int64_t model_dim() const override { return model_dim_; }
  /// All but the final norm's.
  void init_weights(uint64_t seed) override;
  void set_precision(nn::Precision precision) override;

 protected:
  LayeredEncoder(int64_t model_dim, double dropout);
  void add_layer(std::shared_ptr<StackedLayer> layer);

  virtual Tensor final_norm(const Tensor& x_BLD, const Tensor& /*padding_BL*/) { return x_BLD; }

 private:
  int64_t model_dim_;
  double dropout_;
  std::shared_ptr<torch::nn::Module> list_;
  std::vector<std::shared_ptr<StackedLayer>> layers_;
};

}  // namespace megalodon
