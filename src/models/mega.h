// Mega (Ma et al., "Mega: Moving Average Equipped Gated Attention", 2023), with chunks Mega-chunk: language model, and
// encoder and decoder stacks of the same layers.
#pragma once

#include "models/encoder.h"
#include "nn/ema.h"
#include "nn/feed_forward.h"
#include "nn/kept.h"
#include "ops/relative_attention/relative_attention.h"

namespace megalodon {

/// Of one layer.
struct MegaLayerConfig {
  int64_t model_dim = 512, z_dim = 128, value_dim = 1024, ffn_hidden_dim = 1024;  // ffn_hidden_dim 0: no such block
  int64_t ema_ndim = 16, truncation = 0, chunk_size = 0;
  std::string attention = "softmax", position = "rotary";
  int64_t max_positions = 2048;
  std::string activation = "silu", norm = "layer";
  bool prenorm = true;
  double norm_eps = 1e-5;
  double dropout = 0, hidden_dropout = 0, activation_dropout = 0, attention_dropout = 0;
  bool bidirectional = false;  // encoders: averages of both directions, attention that sees all of a chunk
  bool cross = false;          // decoders: attention to a memory

  /// Throws UsageError naming the field, as one of [model], and its value.
  void validate() const;
  /// Whether attention runs on the kernels of ops::attention(), and a stream's keys and values can lie in caches: the
  /// rotary bias is then part of queries and keys.
  bool is_tiled() const { return attention == "softmax" && position == "rotary"; }
  ops::Scores scores() const;
  nn::FeedForwardConfig feed_forward() const;
};

/// The language model: embedding (scaled, normalized), causal layers, norm, output matrix; or an adaptive vocabulary.
struct MegaConfig final : ModelConfig {
  MegaLayerConfig layer;
  int64_t num_layers = 12;
  int64_t vocab_size = 32000, output_size = -1;
  bool scale_emb = true, norm_emb = false, share_emb = false, final_norm_affine = true;
  AdaptiveConfig adaptive;

  std::string architecture() const override { return "mega"; }
  void visit(config::Visitor& visitor) override;
  void validate() const override;
  std::unique_ptr<ModelConfig> clone() const override { return std::make_unique<MegaConfig>(*this); }
  /// Throws UsageError for batch norms, which see the steps to come.
  std::unique_ptr<Model> build() const override;
  std::unique_ptr<Encoder> build_encoder() const override;
  bool is_encoder() const override { return layer.norm == "batch"; }
  int64_t vocabulary() const override { return vocab_size; }
  int64_t outputs() const override { return output_size > 0 ? output_size : vocab_size; }
};

/// The bias of attention as a function of the distance. "simple": parameter "rel_pos_bias" [2M−1]. "rotary": parameters
/// "alpha" and "beta" [1,Z], the bias <R_i alpha, R_j beta> with R_i the rotation of halves by i · 10000^(−2c/Z).
class RelativeBias final : public torch::nn::Module {
 public:
  RelativeBias(const std::string& position, int64_t max_positions, int64_t z_dim);
  /// The table for ops::offset_matrix(), for at least `positions` where it is rotary.
  Tensor table(int64_t positions);
  /// "rotary": R_i alpha and R_j beta at these positions, [B,L,2,Z], pairs of halves next to each other.
  Tensor rotated(const Tensor& position_BL) const;
  void init_weights(uint64_t key);

 private:
  Tensor rotary_table(int64_t positions) const;

  Tensor table_, alpha_, beta_;
  nn::Kept<Tensor> kept_;
};

/// A layer's state between stretches of tokens, and how it is packed: what is undefined is left out.
struct MegaLayerState {
  Tensor ema_BDN;         // complex; the published state divided by p β
  Tensor dropped_BDN;     // with a truncation: the average of the steps beyond it, and
  Tensor window_BTD;      // the last `truncation` inputs, 0 where there was none or another document
  Tensor k_BTHK, v_BTHV;  // of the open chunk, right-aligned where rows differ; undefined where the carry has caches
  Tensor position_B;      // in the open chunk, int64; undefined with caches

  State pack() const;
  static MegaLayerState unpack(const State& state, bool truncated);
};

/// silu(EMA(x) + omega x), in one direction or in both, where the sum of two directions counts the step itself twice.
/// Parameters "delta", "alpha", "beta" [R,N,1], "gamma" [R,N], "omega" [D], R = D or 2D: then the rows from D on look
/// ahead. Padding is 0 to the average, not to omega.
class MovingAverage final : public torch::nn::Module {
 public:
  explicit MovingAverage(const MegaLayerConfig& config);
  /// State of the average in and out; `after` may be null. Throws Error for streams of both directions.
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, const MegaLayerState& before, MegaLayerState* after);
  nn::EmaCoefficients coefficients() const { return nn::ema_coefficients(delta_, alpha_, beta_, gamma_); }
  void init_weights(uint64_t key) { nn::init_ema(delta_, alpha_, beta_, gamma_, omega_, key); }

 private:
  struct Coefficients {
    Tensor q_RN, c_RN, dropped_RN;  // complex; the last is c q^truncation
  };
  Coefficients recurrence() const;
  Tensor averaged(const Tensor& x_BLD, const Tensor& skip_D, const Coefficients& c, const Tensor& starts_BL,
                  const MegaLayerState& before, MegaLayerState* after) const;

  int64_t truncation_;
  bool bidirectional_;
  Tensor delta_, alpha_, beta_, gamma_, omega_;
  nn::Kept<Coefficients> kept_;
};

/// Moving average equipped gated attention: y = x + u ⊙ (h − x). Parameters "norm.*", "move.*", "v_proj.*",
/// "mx_proj.*", "h_proj.*", "gamma", "beta", "rel_pos_bias.*". Declared here so that it can be tested alone against
/// published numbers.
class GatedAttention final : public torch::nn::Module {
 public:
  explicit GatedAttention(const MegaLayerConfig& config);
  /// A slot's state is a MegaLayerState.
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot, uint64_t dropout_key);

  /// What the averaged input is projected to.
  struct Projected {
    Tensor normed_BLD;                   // what the values are made of
    Tensor u_BLD, z_BLZ, r_BLE, hx_BLD;  // u and r before their sigmoid and silu
  };
  Projected project(const Tensor& x_BLD, const ModelInput& input, const MegaLayerState& before, MegaLayerState* after,
                    uint64_t dropout_key);
  /// Attention of steps with those z, [B,L,E].
  Tensor attend(const Tensor& z_BLZ, const Tensor& v_BLE, const ModelInput& input, const ops::KeyValueRows* caches,
                const MegaLayerState& before, MegaLayerState* after, uint64_t dropout_key);
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  std::vector<nn::Linear*> linears() { return {&v_proj_, &mx_proj_, &h_proj_}; }

 private:
  MegaLayerConfig config_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  std::shared_ptr<nn::Norm> norm_;
  std::shared_ptr<MovingAverage> move_;
  std::shared_ptr<RelativeBias> bias_;
  nn::Linear v_proj_, mx_proj_, h_proj_;
  Tensor gamma_, beta_;
};

/// Gated attention of steps to a memory: y = x + u ⊙ (h − x). Parameters as in GatedAttention, without an average.
class GatedCrossAttention final : public torch::nn::Module {
 public:
  explicit GatedCrossAttention(const MegaLayerConfig& config);
  /// `first` is the first step's position, for the bias. A slot's state is the memory's keys and values, which a stream
  /// reads once.
  Tensor forward(const Tensor& x_BLD, const Memory& memory, int64_t first, Carry& carry, int64_t slot,
                 uint64_t dropout_key);
  /// What queries make of the memory's keys, [B,J,Z], and of values [B,J,E].
  Tensor attend(const Tensor& q_BLZ, const Tensor& k_BJZ, const Tensor& v_BJE, const Tensor& padding_BJ, int64_t first,
                uint64_t dropout_key);
  Tensor keys(const Memory& memory) const;
  /// The queries: x through norm and projection.
  struct Projected {
    Tensor u_BLD, r_BLD, q_BLZ;
  };
  Projected project(const Tensor& x_BLD);
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  std::vector<nn::Linear*> linears() { return {&q_proj_, &k_proj_, &v_proj_, &h_proj_}; }

 private:
  MegaLayerConfig config_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  std::shared_ptr<nn::Norm> norm_;
  std::shared_ptr<RelativeBias> bias_;
  nn::Linear q_proj_, k_proj_, v_proj_, h_proj_;
};

/// What a decoder's layer reads besides its steps.
struct DecoderInput {
  Memory memory;
  int64_t first = 0;  // the first step's position
  int64_t slot = 0;   // of the carry, for the memory's keys and values
};

/// Parameters "mega_layer.*", "cross_attn.*" and "nffn.*".
class MegaLayer final : public StackedLayer {
 public:
  explicit MegaLayer(const MegaLayerConfig& config);
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                 uint64_t dropout_key) override {
    return forward(x_BLD, input, {}, carry, slot, dropout_key);
  }
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, const DecoderInput& decoder, Carry& carry, int64_t slot,
                 uint64_t dropout_key);
  void init_weights(uint64_t key) override;
  void set_precision(nn::Precision precision) override;
  std::vector<nn::Linear*> linears() override;

 private:
  std::shared_ptr<GatedAttention> attention_;
  std::shared_ptr<GatedCrossAttention> cross_;
  std::shared_ptr<nn::FeedForward> ffn_;
};

/// Encoder (bidirectional) or decoder (causal, perhaps with cross-attention) of real vectors.
struct MegaStackConfig {
  MegaLayerConfig layer;
  int64_t num_layers = 6;
  bool norm_emb = false;          // a norm before the first layer
  bool final_norm_affine = true;  // of the norm behind the last layer, where layers begin with theirs

  /// As of a layer.
  void validate() const;
};

/// Parameters "layers.<i>.*", "embed_norm.*" and "final_norm.*".
class MegaStack final : public Encoder {
 public:
  /// Throws UsageError for what validate() refuses.
  explicit MegaStack(const MegaStackConfig& config);
  /// Sequences longer than a chunk are padded to whole chunks on the way.
  Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t dropout_key) override {
    NoCarry whole;
    return forward(x_BLD, padding_BL, {}, whole, dropout_key);
  }
  /// State in and out through the carry: a slot per layer; with cross-attention another per layer, of the memory, and
  /// one of the number of steps that were read.
  Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, const Memory& memory, Carry& carry,
                 uint64_t dropout_key);
  int64_t model_dim() const override { return config_.layer.model_dim; }
  int64_t longest() const override {
    return config_.layer.position == "simple" && config_.layer.chunk_size == 0 ? config_.layer.max_positions : 0;
  }
  void init_weights(uint64_t seed) override;
  void set_precision(nn::Precision precision) override;
  /// Called with (layer, output_BLD, chunks' padding included) after every layer, with layer −1 before the first.
  void set_observer(std::function<void(int64_t, const Tensor&)> observer) { observer_ = std::move(observer); }

 private:
  MegaStackConfig config_;
  std::function<void(int64_t, const Tensor&)> observer_;
  std::shared_ptr<nn::Norm> embed_norm_, final_norm_;
  std::vector<std::shared_ptr<MegaLayer>> layers_;
};

}  // namespace megalodon
