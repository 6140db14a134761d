// The Transformer (Vaswani et al., 2017) and its kin as one architecture with switches: Llama 2 (Touvron et al., 2023),
// its long-context relatives (YaRN, XGen) and MPT. Language model, and encoder and decoder stacks of the same layers.
#pragma once

#include "models/encoder.h"
#include "nn/constant.h"
#include "nn/parameters.h"
#include "nn/positions.h"
#include "ops/attention/attention.h"

namespace megalodon {

/// Of one layer.
struct TransformerLayerConfig {
  int64_t model_dim = 512, num_heads = 8, num_kv_heads = 0, ffn_hidden_dim = 2048;
  std::string norm = "rms", activation = "swiglu";
  bool prenorm = true, bias = false;
  double norm_eps = 1e-5;
  std::string position = "rotary";
  double rope_base = 10000, alibi_max = 8;
  nn::RopeScaling rope;
  bool causal = true;  // false, and cross: of encoder and decoder stacks only
  bool cross = false;
  int64_t chunk_size = 0, window = 0;
  double softmax_scale = 0, clip_qkv = 0;
  bool qk_norm = false;
  double dropout = 0, hidden_dropout = 0, attention_dropout = 0;
  std::string init_mode = "bert";

  int64_t head_dim() const { return model_dim / num_heads; }
  /// Whether a stream's keys and values can lie in caches: attention sees all of its chunk.
  bool has_caches() const { return causal && window == 0 && !rope.kind.starts_with("dynamic_"); }
  int64_t kv_heads() const { return num_kv_heads > 0 ? num_kv_heads : num_heads; }
};

/// The language model: embedding, positions, causal layers, norm, output matrix. The encoder: positions, layers and
/// norm.
struct TransformerConfig final : ModelConfig {
  TransformerLayerConfig layer;
  int64_t num_layers = 6, max_positions = 2048;
  int64_t vocab_size = 32000, output_size = -1;
  bool share_emb = false;
  double logit_scale = 1;

  std::string architecture() const override { return "transformer"; }
  void visit(config::Visitor& visitor) override;
  void validate() const override;
  std::unique_ptr<ModelConfig> clone() const override { return std::make_unique<TransformerConfig>(*this); }
  std::unique_ptr<Model> build() const override;
  std::unique_ptr<Encoder> build_encoder() const override;
  int64_t vocabulary() const override { return vocab_size; }
  int64_t outputs() const override { return output_size > 0 ? output_size : vocab_size; }
};

/// RMS or layer norm. Parameters "<name>.weight", stored minus one, and "<name>.bias" of a layer norm with biases.
class TransformerNorm {
 public:
  TransformerNorm() = default;
  TransformerNorm(torch::nn::Module& module, const std::string& name, int64_t dim,
                  const TransformerLayerConfig& config);
  /// Of x's dtype unless told otherwise.
  Tensor operator()(const Tensor& x, std::optional<torch::ScalarType> y_type = {}) const;
  void init_weights() const { affine_.init_weights(); }

 private:
  bool is_rms_ = true;
  double eps_ = 0;
  nn::Affine affine_;
};

/// Multi-head attention with grouped keys and values. Parameters "wq.*", "wk.*", "wv.*", "wo.*", "q_norm.*",
/// "k_norm.*".
class TransformerAttention final : public torch::nn::Module {
 public:
  explicit TransformerAttention(const TransformerLayerConfig& config);
  /// Of each step over those of the same sequence, before the output matrix, [B,L,D]. A slot's state is the keys
  /// (rotated) and values that later steps see, [B,T,G,K], right-aligned where rows differ, and each row's position in
  /// its document or chunk, int64 [B]; empty where the carry has caches. Throws Error where attention that is not
  /// causal is given a stream or documents.
  Tensor forward(const Tensor& u_BLD, const ModelInput& input, Carry& carry, int64_t slot, uint64_t dropout_key);
  /// Of each step over all of the memory.
  Tensor forward(const Tensor& u_BLD, const Memory& memory, uint64_t dropout_key);
  const nn::Linear& output() const { return wo_; }
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  std::vector<nn::Linear*> linears() { return {&wq_, &wk_, &wv_, &wo_}; }

 private:
  struct Heads {
    Tensor q_BLHK, k_BJGK, v_BJGV;
  };
  Heads heads(const std::vector<Tensor>& projected) const;
  void rotate(Heads& heads, const Tensor& position_BL) const;
  /// What scores are multiplied with.
  double scale() const;
  Tensor attend_cached(const Heads& heads, const ops::KeyValueRows& caches) const;
  Tensor attend(const Heads& heads, ops::AttentionOptions options, uint64_t dropout_key) const;

  TransformerLayerConfig config_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  nn::Constant frequency_K_, slope_H_;
  double rope_magnitude_ = 1;
  nn::Linear wq_, wk_, wv_, wo_;
  TransformerNorm q_norm_, k_norm_;
};

/// W2 act(W1 u) or W2 (silu(W1 u) ⊙ W3 u), before W2. Parameters "w1.*", "w2.*", "w3.*".
class TransformerFfn final : public torch::nn::Module {
 public:
  explicit TransformerFfn(const TransformerLayerConfig& config);
  Tensor forward(const Tensor& u_BLD, uint64_t dropout_key);
  const nn::Linear& output() const { return w2_; }
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  std::vector<nn::Linear*> linears();

 private:
  TransformerLayerConfig config_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  nn::Linear w1_, w2_, w3_;  // w3 has no weight without swiglu
};

/// x + f(norm(x)) (prenorm) or norm(x + f(x)) with f attention, cross-attention where there is one, feed-forward.
/// Parameters "attention.*", "attention_norm.*", "cross.*", "cross_norm.*", "feed_forward.*", "feed_forward_norm.*".
class TransformerLayer final : public StackedLayer {
 public:
  explicit TransformerLayer(const TransformerLayerConfig& config);
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                 uint64_t dropout_key) override {
    return forward(x_BLD, input, {}, carry, slot, dropout_key);
  }
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, const Memory& memory, Carry& carry, int64_t slot,
                 uint64_t dropout_key);
  void init_weights(uint64_t key) override;
  void set_precision(nn::Precision precision) override;
  std::vector<nn::Linear*> linears() override;

 private:
  /// x + f(norm(x)) or norm(x + f(x)), f ending in `output`.
  template <class Inner>
  Tensor branch(const Tensor& x_BLD, const TransformerNorm& norm, const nn::Linear& output, uint64_t dropout_key,
                uint64_t site, const Inner& inner) const;

  TransformerLayerConfig config_;
  nn::Precision precision_ = nn::Precision::kFloat32;
  std::shared_ptr<TransformerAttention> attention_, cross_;
  std::shared_ptr<TransformerFfn> ffn_;
  TransformerNorm attention_norm_, cross_norm_, ffn_norm_;
};

/// What tells positions to layers that do not know them. Parameter "positions.weight" of learned ones.
class AddedPositions {
 public:
  AddedPositions() = default;
  AddedPositions(torch::nn::Module& module, const TransformerLayerConfig& config, int64_t max_positions);
  /// Whether there are any: otherwise the layers know.
  explicit operator bool() const { return position_ == "learned" || position_ == "sinusoidal"; }
  /// Throws Error where a document of so many steps goes beyond the table.
  void check_length(int64_t length) const;
  /// The positions are those of a document that is not too long.
  Tensor add_to(const Tensor& x_BLD, const Tensor& position_BL) const;
  void init_weights(uint64_t key);

 private:
  std::string position_;
  Tensor table_;
  nn::Constant frequency_D_;
};

/// Encoder, or with cross-attention decoder, of real vectors. Parameters "positions.weight" of learned positions,
/// "layers.<i>.*", and "norm.*" of a norm at the end where there is one.
class TransformerStack final : public Encoder {
 public:
  /// `max_positions` are the rows of the table of learned positions.
  TransformerStack(const TransformerLayerConfig& config, int64_t num_layers, bool final_norm,
                   int64_t max_positions = 0);
  Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t dropout_key) override;
  /// A decoder over its memory; also an encoder whose results at steps of padding are of interest.
  Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, const Memory& memory, uint64_t dropout_key);
  int64_t model_dim() const override { return model_dim_; }
  int64_t longest() const override { return longest_; }
  void init_weights(uint64_t seed) override;
  void set_precision(nn::Precision precision) override;

 private:
  int64_t model_dim_, longest_;
  double dropout_;
  AddedPositions positions_;
  std::vector<std::shared_ptr<TransformerLayer>> layers_;
  bool has_norm_;
  TransformerNorm norm_;
};

}  // namespace megalodon
