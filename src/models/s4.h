// S4 (Gu et al., "Efficiently Modeling Long Sequences with Structured State Spaces", 2021) and S4D (Gu et al., "On the
// Parameterization and Initialization of Diagonal State Space Models", 2022): language model and encoder.
#pragma once

#include "models/encoder.h"
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
  bool prenorm = true;
  double norm_eps = 1e-5, dropout = 0;
  S4Init init;
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
  double dropout_;
  std::shared_ptr<S4Convolution> convolution_;
  nn::Linear output_;
};

/// x + S4Block(norm(x)) (prenorm) or norm(x + S4Block(x)), with a layer norm. Steps of padding reach no other.
/// Parameters "norm.*" and "s4.*".
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
  double norm_eps_, dropout_;
  nn::Affine norm_;
  std::shared_ptr<S4Block> block_;
};

/// The language model: embedding, causal layers, layer norm, output matrix. The encoder: the layers alone, which see
/// both directions.
struct S4Config final : ModelConfig {
  int64_t num_layers = 6, model_dim = 512, state_dim = 64, channels = 1, num_matrices = 0;
  std::string kernel = "s4d", init = "lin", discretization = "zoh";
  int64_t kernel_length = 1024;
  double dt_min = 1e-3, dt_max = 1e-1, norm_eps = 1e-5, dropout = 0;
  int64_t vocab_size = 32000, output_size = -1;
  bool prenorm = true, share_emb = false;

  std::string architecture() const override { return "s4"; }
  void visit(config::Visitor& visitor) override;
  void validate() const override;
  std::unique_ptr<ModelConfig> clone() const override { return std::make_unique<S4Config>(*this); }
  std::unique_ptr<Model> build() const override;
  std::unique_ptr<Encoder> build_encoder() const override;
  int64_t vocabulary() const override { return vocab_size; }
  int64_t outputs() const override { return output_size > 0 ? output_size : vocab_size; }
  S4LayerConfig layer() const;
};

/// Layers, and no norm at the end.
class S4Encoder final : public LayeredEncoder {
 public:
  S4Encoder(const S4LayerConfig& config, int64_t num_layers);
};

}  // namespace megalodon
