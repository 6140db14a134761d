// Megalodon (Ma et al., "Megalodon: Efficient LLM Pretraining and Inference with Unlimited Context Length", 2024).
#pragma once

#include "models/encoder.h"
#include "nn/cema.h"
#include "nn/kept.h"
#include "nn/parameters.h"
#include "ops/timestep_norm/timestep_norm.h"

namespace megalodon {

/// The language model: embedding, blocks, timestep norm, output matrix. The encoder: blocks that see both directions,
/// and sequence norm; its chunk_size may be 0, which lets every step see every other.
struct MegalodonConfig final : ModelConfig {
  int64_t num_layers = 8, model_dim = 1024, z_dim = 256, value_dim = 2048, num_heads = 1, ffn_hidden_dim = 2560;
  int64_t cema_ndim = 16, chunk_size = 2048;
  int64_t vocab_size = 32000, output_size = -1;
  int64_t norm_num_groups = 32;
  bool norm_affine = true;
  double norm_eps = 1e-5, rope_base = 10000;
  double dropout = 0, hidden_dropout = 0, attention_dropout = 0;
  bool swiglu = false, rescale_nffn = false, scale_emb = false, share_emb = false;
  std::string init_mode = "he";

  std::string architecture() const override { return "megalodon"; }
  void visit(config::Visitor& visitor) override;
  void validate() const override;
  std::unique_ptr<ModelConfig> clone() const override { return std::make_unique<MegalodonConfig>(*this); }
  std::unique_ptr<Model> build() const override;
  std::unique_ptr<Encoder> build_encoder() const override;
  int64_t vocabulary() const override { return vocab_size; }
  int64_t outputs() const override { return output_size > 0 ? output_size : vocab_size; }
};

/// A layer's state between stretches of tokens, and how it is packed into a State of seven tensors. The last slot of
/// the model, after the layers', is the final norm's and holds only norm_*.
struct MegalodonLayerState {
  Tensor norm_count_B;  // int64
  Tensor norm_mean_BG;  // float64
  Tensor norm_var_BG;   // float64
  Tensor cema_BDN;      // complex64; the published state divided by p = sigmoid(alpha)
  // Keys (rotated) and values of the open chunk, right-aligned where rows differ, and the position in it, int64; T is
  // the largest. All undefined where the carry has caches.
  Tensor k_BTHK, v_BTHV, position_B;

  State pack() const;
  /// Of an empty State: a fresh start, everything undefined.
  static MegalodonLayerState unpack(const State& state);
  ops::TimestepNormState norm() const { return {norm_count_B, norm_mean_BG, norm_var_BG}; }
};

/// CEMA, timestep norm and chunk attention: y = x + Wh1 m + bh1 + Wh2 (attention ⊙ r). Declared here, with the
/// feed-forward block, so that each can be tested alone against published numbers.
///
/// A bidirectional one, of encoders, has the sequence norm for the timestep norm, a moving average of both directions
/// (alpha, delta, theta and gamma with 2D rows) and attention without the causal mask. Steps of padding reach no other.
class MegaAttention final : public torch::nn::Module {
 public:
  explicit MegaAttention(const MegalodonConfig& config, bool bidirectional = false);
  /// State in and out through `carry` at `slot`. `input` tells where documents start. Throws Error where a
  /// bidirectional one is given a stream or documents.
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot, uint64_t dropout_key);
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  std::vector<nn::Linear*> linears() { return {&wv_, &wz_, &wr_, &wh1_, &wh2_}; }

 private:
  // Each takes its part of the state before, and leaves that of the state after where somebody wants it.
  Tensor normalize(const Tensor& x_BLD, const ModelInput& input, const MegalodonLayerState& before,
                   MegalodonLayerState* after) const;
  Tensor average(const Tensor& t_BLD, const ModelInput& input, const MegalodonLayerState& before,
                 MegalodonLayerState* after);
  Tensor attend(const Tensor& z_BLZ, const Tensor& t_BLD, const ModelInput& input, const ops::KeyValueRows* caches,
                const MegalodonLayerState& before, MegalodonLayerState* after, uint64_t dropout_key);

  MegalodonConfig config_;
  bool bidirectional_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  nn::Affine timenorm_, rmsnorm_;
  Tensor cema_alpha_, cema_delta_, cema_theta_, cema_gamma_, cema_omega_;
  Tensor gamma_, beta_;
  nn::Linear wv_, wz_, wr_, wh1_, wh2_;
  nn::Kept<nn::CemaCoefficients> kept_cema_;
  nn::Kept<Tensor> kept_scale_;
};

/// residual + [alpha ⊙] W2 (silu(W1 u) [⊙ W3 u]),  u = LayerNorm(x)
class NormalizedFfn final : public torch::nn::Module {
 public:
  /// `layer` sets the initial layer scale 0.1 · 0.5^layer when the configuration has rescale_nffn.
  NormalizedFfn(const MegalodonConfig& config, int64_t layer);
  Tensor forward(const Tensor& x_BLD, const Tensor& residual_BLD, uint64_t dropout_key);
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  std::vector<nn::Linear*> linears();

 private:
  MegalodonConfig config_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  int64_t layer_;
  nn::Linear fc1_, fc2_, fc3_;  // fc3 has no weight without swiglu
  nn::Affine norm_;
  Tensor alpha_;
};

/// Blocks, and sequence norm. Parameters "layers.<i>.*" as the language model's, "final_norm.weight" and
/// "final_norm.bias".
class MegalodonEncoder final : public LayeredEncoder {
 public:
  explicit MegalodonEncoder(const MegalodonConfig& config);
  void init_weights(uint64_t seed) override;

 protected:
  Tensor final_norm(const Tensor& x_BLD, const Tensor& padding_BL) override;

 private:
  MegalodonConfig config_;
  nn::Affine final_norm_;
};

}  // namespace megalodon
