// S4 (Gu et al., "Efficiently Modeling Long Sequences with Structured State Spaces", 2021) and S4D (Gu et al., "On the
// Parameterization and Initialization of Diagonal State Space Models", 2022): language model and encoder.
#pragma once

#include "models/encoder.h"
#include "nn/feed_forward.h"
#include "nn/kept.h"
#include "nn/parameters.h"
#include "nn/state_space.h"

namespace megalodon {

/// Values of a state space at the start.
struct S4Init {
  std::string matrix = "lin";  // of nn::diagonal_a(), or for S4 legs
  double dt_min = 1e-3, dt_max = 1e-1;
};

/// Of one layer.
struct S4LayerConfig {
  int64_t features = 0;        // H
  int64_t state_dim = 64;      // real states, twice the complex ones
  int64_t channels = 1;        // kernels of a feature
  int64_t matrices = 0;        // S of A, B and P, each for every S-th feature; 0: each feature has its own
  int64_t rank = 0;            // of what S4 subtracts from a normal matrix; 0: S4D, a diagonal matrix
  bool bidirectional = false;  // a second set of kernels sees what is to come
  int64_t longest_kernel = 0;  // taps beyond are 0; 0: none are
  nn::StateSpaceUse use;       // for S4D the discretization, for S4 the length that C is attuned to
  nn::StateSpaceTransforms transforms;
  int64_t ffn_expand = 4;  // of a feed-forward layer: hidden features of each feature
  std::string norm = "layer";
  bool prenorm = true;
  double norm_eps = 1e-5;
  nn::Dropout dropout;
  S4Init init;

  nn::FeedForwardConfig feed_forward() const;
};

/// y = K * x + D x for every channel, [B,L,C·H]. Parameters "D" and "kernel.*" under their published names. S4D scans;
/// S4, and whatever else is no recurrence, convolves by FFT.
class S4Convolution final : public torch::nn::Module {
 public:
  explicit S4Convolution(const S4LayerConfig& config);
  /// A slot's state is one tensor, complex [B,H,N]. Throws Error where a bidirectional layer or one with a longest
  /// kernel is given a past, a future or documents.
  Tensor forward(const Tensor& x_BLD, const Tensor& starts_BL, Carry& carry, int64_t slot);
  void init_weights(uint64_t key);

 private:
  nn::StateSpace space() const { return nn::state_space(parameters_, config_.transforms); }
  Tensor convolve(const nn::StateSpace& space, const Tensor& x_BLD, const Tensor& starts_BL) const;
  /// What is left of a past that ends where the first document begins.
  Tensor after_past(const nn::StateSpace& space, const Tensor& state_BDN, int64_t length,
                    const Tensor& starts_BL) const;
  ops::RecurrenceOut scan(const Tensor& x_BLD, const ops::RecurrenceOptions& options);

  S4LayerConfig config_;
  nn::StateSpaceParameters parameters_;
  Tensor skip_CD_;
  nn::Kept<nn::StateSpaceRecurrence> kept_;
};

/// GLU(W gelu(convolution) + b), GLU([a, b]) = a ⊙ sigmoid(b). Parameters "layer.*" and "output_linear.0.*".
class S4Block final : public torch::nn::Module {
 public:
  explicit S4Block(const S4LayerConfig& config);
  Tensor forward(const Tensor& x_BLD, const Tensor& starts_BL, Carry& carry, int64_t slot, uint64_t dropout_key);
  void init_weights(uint64_t key);
  void set_precision(nn::Precision precision) { precision_ = precision; }
  nn::Linear& linear() { return output_; }

 private:
  nn::Precision precision_ = nn::Precision::kFloat32;
  nn::Dropout dropout_;
  std::shared_ptr<S4Convolution> convolution_;
  nn::Linear output_;
};

/// x + S4Block(norm(x)) (prenorm) or norm(x + S4Block(x)). Steps of padding reach no other, but through batch norms in
/// training. Parameters "norm.*" and "s4.*".
class S4Layer final : public StackedLayer {
 public:
  explicit S4Layer(const S4LayerConfig& config);
  Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                 uint64_t dropout_key) override;
  void init_weights(uint64_t key) override;
  void set_precision(nn::Precision precision) override { block_->set_precision(precision); }
  std::vector<nn::Linear*> linears() override { return {&block_->linear()}; }

 private:
  bool prenorm_;
  nn::Dropout dropout_;
  std::shared_ptr<nn::Norm> norm_;
  std::shared_ptr<S4Block> block_;
};

/// A feed-forward block between them. Parameters "ffn.*".
class S4FeedForward final : public StackedLayer {
 public:
  explicit S4FeedForward(const S4LayerConfig& config);
  bool has_state() const override { return false; }
  Tensor forward(const Tensor& x_BLD, const ModelInput&, Carry&, int64_t, uint64_t dropout_key) override {
    return ffn_->forward(x_BLD, dropout_key);
  }
  void init_weights(uint64_t key) override { ffn_->init_weights(key); }
  void set_precision(nn::Precision precision) override { ffn_->set_precision(precision); }
  std::vector<nn::Linear*> linears() override { return ffn_->linears(); }

 private:
  std::shared_ptr<nn::FeedForward> ffn_;
};

enum class S4LayerKind { kStateSpace, kFeedForward };
std::shared_ptr<StackedLayer> make_s4_layer(S4LayerKind kind, const S4LayerConfig& config);

/// The language model: embedding, causal layers, layer norm, output matrix. The encoder: the layers alone, which see
/// both directions, and perhaps a norm.
struct S4Config final : ModelConfig {
  int64_t num_layers = 6;
  std::string layers_per_block = "s4";
  int64_t model_dim = 512, state_dim = 64, channels = 1, num_matrices = 0;
  std::string kernel = "s4d", init = "lin", discretization = "zoh";
  int64_t kernel_length = 1024;
  double dt_min = 1e-3, dt_max = 1e-1;
  std::string dt_transform = "exp";
  int64_t ffn_expand = 4;
  std::string norm = "layer";
  bool prenorm = true, final_norm = false;
  double norm_eps = 1e-5, dropout = 0, embed_dropout = -1;
  bool dropout_tied = false, scale_emb = false;
  int64_t vocab_size = 32000, output_size = -1;
  bool share_emb = false;
  AdaptiveConfig adaptive;

  std::string architecture() const override { return "s4"; }
  void visit(config::Visitor& visitor) override;
  void validate() const override;
  std::unique_ptr<ModelConfig> clone() const override { return std::make_unique<S4Config>(*this); }
  /// Throws UsageError for batch norms, which see the steps to come.
  std::unique_ptr<Model> build() const override;
  std::unique_ptr<Encoder> build_encoder() const override;
  bool is_encoder() const override { return norm == "batch"; }
  int64_t vocabulary() const override { return vocab_size; }
  int64_t outputs() const override { return output_size > 0 ? output_size : vocab_size; }
  S4LayerConfig layer() const;
  /// The layers of a block. Throws UsageError for a layers_per_block that is no list of them.
  std::vector<S4LayerKind> block() const;
  /// All layers.
  std::vector<S4LayerKind> kinds() const;
  double dropout_of_embedding() const { return embed_dropout == -1 ? dropout : embed_dropout; }
};

struct S4EncoderConfig {
  S4LayerConfig layer;
  std::vector<S4LayerKind> kinds;
  double input_dropout = 0;
  bool final_norm = false;  // behind the last layer
};

/// Parameters "layers.<i>.*" and "final_norm.*".
class S4Encoder final : public LayeredEncoder {
 public:
  explicit S4Encoder(const S4EncoderConfig& config);
  void init_weights(uint64_t seed) override;

 protected:
  Tensor final_norm(const Tensor& x_BLD, const Tensor& padding_BL) override;

 private:
  std::shared_ptr<nn::Norm> final_norm_;
};

}  // namespace megalodon
