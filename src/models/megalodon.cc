// Megalodon (Ma et al., 2024), equations as in docs/architecture.md:
//
//   t = TimestepNorm(x)                       z = headwise RMSNorm(Wz m + bz)          (no weight)
//   m = RMSNorm(CEMA(t))                      q, k = z ⊙ (γ_i + 1)/√(Z/H) + β_i         i = 0, 1
//   v = silu(Wv t + bv)   r = silu(Wr m + br)
//   y = x + Wh1 m + bh1 + Wh2 (attention(rope q, rope k, v) ⊙ r)
//   out = x + α ⊙ FFN(LayerNorm(y))           two-hop: the residual is the block's input x, not y
//
// In encoders SequenceNorm stands for TimestepNorm, CEMA is the sum of one of either direction, and attention sees all
// of its chunk, or of the sequence.
//
// Departures from the published code: statistics are carried in float64, rotary angles are float32 whatever the dtype,
// any split of a sequence into calls is allowed, and attention dropout is the same on all paths.
//
// Shapes: B batch · L time · D model · N CEMA order · Z shared query/key · E value · H heads · K = Z/H · V = E/H ·
// C chunk · G norm groups · F ffn.
#include "models/megalodon.h"

#include <cmath>

#include "base/check.h"
#include "base/philox.h"
#include "models/config_checks.h"
#include "nn/cema.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/linear.h"
#include "nn/parameters.h"
#include "ops/attention/attention.h"
#include "ops/cached_attention/cached_attention.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/gated_silu/gated_silu.h"
#include "ops/linear_recurrence/linear_recurrence.h"
#include "ops/query_key/query_key.h"
#include "ops/row_norm/row_norm.h"
#include "ops/sequence_norm/sequence_norm.h"

namespace megalodon {

using nn::activation_type;
using nn::drop;
using nn::register_at;

// ---- configuration --------------------------------------------------------------------------------------------------

void MegalodonConfig::visit(config::Visitor& v) {
  v.field("num_layers", num_layers, "blocks");
  v.field("model_dim", model_dim, "D, width of the residual stream");
  v.field("z_dim", z_dim, "Z, width of the shared query/key projection, all heads together");
  v.field("value_dim", value_dim, "E, width of the values, all heads together");
  v.field("num_heads", num_heads, "H, attention heads");
  v.field("ffn_hidden_dim", ffn_hidden_dim, "F, hidden width of the feed-forward blocks");
  v.field("cema_ndim", cema_ndim, "N, order of the complex moving average");
  v.field("chunk_size", chunk_size, "C, steps per attention chunk; in encoders 0: no chunks");
  v.field("init_mode", init_mode, "initial linear weights: he, bert, xavier, gaussian, none");
  v.field("vocab_size", vocab_size, "tokens");
  v.field("output_size", output_size, "classes of the output layer; -1: vocab_size");
  v.field("norm_num_groups", norm_num_groups, "G, feature groups of the timestep norms");
  v.field("norm_affine", norm_affine, "weights (and biases) in RMS and layer norms; timestep norms always have them");
  v.field("norm_eps", norm_eps, "added to variances");
  v.field("rope_base", rope_base, "base of the rotary frequencies");
  v.field("dropout", dropout, "on the embedding, the attention branch and the feed-forward output");
  v.field("hidden_dropout", hidden_dropout,
          "on the moving average, the gated attention and the feed-forward hidden layer");
  v.field("attention_dropout", attention_dropout, "on attention probabilities");
  v.field("swiglu", swiglu, "gated feed-forward blocks: silu(W1 u) ⊙ W3 u");
  v.field("rescale_nffn", rescale_nffn, "trained layer scale on feed-forward outputs, from 0.1 · 0.5^layer");
  v.field("scale_emb", scale_emb, "multiply embeddings by √D");
  v.field("share_emb", share_emb, "the output matrix is the embedding");
}

void MegalodonConfig::validate() const {
  const auto divides = [](const char* name, int64_t value, const char* by, int64_t divisor) {
    if (value % divisor != 0) fail_usage("[model.{}] {} must be divisible by {} = {}", name, value, by, divisor);
  };
  check_sizes({{"model.num_layers", num_layers},
               {"model.model_dim", model_dim},
               {"model.z_dim", z_dim},
               {"model.value_dim", value_dim},
               {"model.num_heads", num_heads},
               {"model.cema_ndim", cema_ndim},
               {"model.ffn_hidden_dim", ffn_hidden_dim},
               {"model.norm_num_groups", norm_num_groups}});
  check_size("model.chunk_size", chunk_size, 0);
  divides("z_dim", z_dim, "num_heads", num_heads);
  divides("value_dim", value_dim, "num_heads", num_heads);
  divides("model_dim", model_dim, "norm_num_groups", norm_num_groups);
  if (z_dim / num_heads % 2 != 0)
    fail_usage("[model.z_dim] z_dim / num_heads must be even (rotary pairs), got {} / {}", z_dim, num_heads);
  check_vocabulary(vocab_size, output_size, share_emb);
  check_positive("model.norm_eps", norm_eps);
  if (!(rope_base > 1)) fail_usage("[model.rope_base] expected a number above 1, got {}", rope_base);
  check_probability("model.dropout", dropout);
  check_probability("model.hidden_dropout", hidden_dropout);
  check_probability("model.attention_dropout", attention_dropout);
  check_one_of("model.init_mode", init_mode, nn::init_modes());
}

std::unique_ptr<ModelConfig> make_megalodon_config() {
  return std::make_unique<MegalodonConfig>();
}

std::vector<Preset> megalodon_presets() {
  struct Row {
    const char *name, *note;
    int64_t layers, dim, z, value, heads, ffn, ndim, groups, chunk, vocab;
    double rope_base;
    bool swiglu, share_emb = false, scale_emb = false;
  };
  static constexpr Row rows[] = {
      {"megalodon-tiny", "a toy for trying things out and for tests", 2, 32, 16, 48, 2, 64, 4, 4, 16, 256, 1e4, true,
       true, true},
      {"byte11m", "a byte-level model for measurements", 6, 384, 192, 384, 3, 1024, 8, 32, 256, 256, 1e4, true, false},
      {"mega200M", "published configuration", 12, 1024, 256, 2048, 1, 2560, 16, 32, 2048, 32000, 1e4, false, false},
      // Not scaled: it would begin by foretelling the token just read, with a loss of 16 on bytes instead of 5.4.
      {"megalodon-11M", "of the size of the other -11M, for comparisons", 4, 384, 192, 768, 3, 768, 16, 32, 512, 8192,
       1e4, true, true},
      {"megalodon-45M", "of the size of the other -45M, for comparisons", 5, 768, 192, 1536, 3, 1536, 16, 32, 512, 8192,
       1e4, true, true},
      {"mega1.3B", "published configuration", 24, 2048, 512, 4096, 2, 4864, 16, 64, 2048, 32000, 1e4, false, false},
      {"mega1.3B_pg19", "published configuration", 24, 2048, 512, 4096, 2, 3584, 16, 64, 2048, 32000, 1e4, true, true,
       true},
      {"mega7.1B", "published configuration", 32, 4096, 1024, 8192, 4, 11264, 16, 64, 2048, 32000, 1e4, false, false},
      {"mega7.3B", "published configuration", 32, 4096, 1024, 8192, 4, 8192, 16, 64, 2048, 32000, 1e4, true, false},
      {"paper7B", "the paper's 7B model", 32, 4096, 1024, 8192, 4, 8192, 16, 64, 4096, 32000, 1e5, true, false},
  };
  std::vector<Preset> presets;
  for (const Row& row : rows) {
    auto config = std::make_shared<MegalodonConfig>();
    config->num_layers = row.layers, config->model_dim = row.dim, config->z_dim = row.z, config->value_dim = row.value;
    config->num_heads = row.heads, config->ffn_hidden_dim = row.ffn, config->norm_num_groups = row.groups;
    config->cema_ndim = row.ndim, config->vocab_size = row.vocab;
    config->chunk_size = row.chunk, config->rope_base = row.rope_base, config->swiglu = row.swiglu;
    config->share_emb = row.share_emb, config->scale_emb = row.scale_emb;
    presets.push_back({row.name, row.note, config});
  }
  return presets;
}

// ---- state ----------------------------------------------------------------------------------------------------------

State MegalodonLayerState::pack() const {
  return {norm_count_B, norm_mean_BG, norm_var_BG, cema_BDN, k_BTHK, v_BTHV, position_B};
}

MegalodonLayerState MegalodonLayerState::unpack(const State& state) {
  if (state.empty()) return {};
  check(state.size() == 7, "[megalodon] a layer's state has 7 tensors, got {}", state.size());
  return {state[0], state[1], state[2], state[3], state[4], state[5], state[6]};
}

// ---- dropout sites --------------------------------------------------------------------------------------------------

namespace {

enum Site : uint64_t { kOnAverage, kOnProbabilities, kOnGated, kOnBranch, kOnFfnHidden, kOnFfnOutput, kOnEmbedding };

/// Of the moving average's input and output. On the CPU, whose kernels compute it in float32 and whose caches hold it,
/// that is x's; on a GPU every pass over memory counts.
torch::ScalarType average_type(const Tensor& x, nn::Precision precision) {
  return x.is_cuda() ? activation_type(x, precision) : x.scalar_type();
}

}  // namespace

// ---- attention layer ------------------------------------------------------------------------------------------------

MegaAttention::MegaAttention(const MegalodonConfig& config, bool bidirectional)
    : config_(config), bidirectional_(bidirectional) {
  const int64_t D = config.model_dim, N = config.cema_ndim, Z = config.z_dim, E = config.value_dim;
  const int64_t rows = bidirectional ? 2 * D : D;
  gamma_ = register_at(*this, "gamma", {2, Z});
  beta_ = register_at(*this, "beta", {2, Z});
  timenorm_ = nn::Affine(*this, "timenorm", D);
  cema_alpha_ = register_at(*this, "cema.alpha", {rows, N, 1});
  cema_delta_ = register_at(*this, "cema.delta", {rows, N, 1});
  cema_theta_ = register_at(*this, "cema.theta", {rows, 1, 1});
  cema_gamma_ = register_at(*this, "cema.gamma", {rows, N, 2});
  cema_omega_ = register_at(*this, "cema.omega", {D, 1});
  if (config.norm_affine) rmsnorm_ = nn::Affine(*this, "rmsnorm", D, /*with_bias=*/false);
  wv_ = nn::Linear(*this, "wv", D, E, /*with_bias=*/true);
  wz_ = nn::Linear(*this, "wz", D, Z, true);
  wr_ = nn::Linear(*this, "wr", D, E, true);
  wh1_ = nn::Linear(*this, "wh1", D, D, true);
  wh2_ = nn::Linear(*this, "wh2", E, D, false);
}

void MegaAttention::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const nn::Linear* layer : linears()) {
    nn::init_linear(layer->weight, config_.init_mode, derive_key(key, stream++));
    if (layer->bias.defined()) layer->bias.zero_();
  }
  for (const Tensor& zero : {gamma_, beta_}) zero.zero_();
  for (const nn::Affine& norm : {timenorm_, rmsnorm_}) norm.init_weights();
  nn::init_cema(cema_alpha_, cema_delta_, cema_theta_, cema_gamma_, cema_omega_, derive_key(key, stream));
}

Tensor MegaAttention::forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                              uint64_t dropout_key) {
  const State past = carry.before(slot);
  check(!bidirectional_ || (past.empty() && !carry.wants_after() && !input.starts_BL.defined()),
        "[megalodon] an encoder reads whole sequences, not streams or documents");
  const auto before = MegalodonLayerState::unpack(past);
  MegalodonLayerState future, *const after = carry.wants_after() ? &future : nullptr;

  const Tensor t_BLD = normalize(x_BLD, input, before, after);
  const Tensor m_BLD = drop(ops::rms_norm(average(t_BLD, input, before, after), rmsnorm_.weight, config_.norm_eps,
                                          activation_type(x_BLD, precision_)),
                            config_.hidden_dropout, dropout_key, kOnAverage, is_training());
  // The residual stream runs through the additions of the products, where nothing is dropped from the branch.
  const bool drops = is_training() && config_.dropout > 0;
  const auto of_m = ops::linears(m_BLD, {wz_.plus(), wr_.plus(), wh1_.plus(drops ? Tensor() : x_BLD)}, precision_);
  const Tensor &z_BLZ = of_m[0], &r_BLE = of_m[1], &direct_BLD = of_m[2];
  const Tensor attention_BLE = attend(z_BLZ, t_BLD, input, carry.caches(slot), before, after, dropout_key);
  const Tensor gated_BLE =
      drop(ops::gated_silu(r_BLE, attention_BLE), config_.hidden_dropout, dropout_key, kOnGated, is_training());
  const Tensor y_BLD = wh2_(gated_BLE, precision_, direct_BLD);

  if (after != nullptr) carry.after(slot, after->pack());
  return drops ? x_BLD + drop(y_BLD, config_.dropout, dropout_key, kOnBranch, true) : y_BLD;
}

Tensor MegaAttention::normalize(const Tensor& x_BLD, const ModelInput& input, const MegalodonLayerState& before,
                                MegalodonLayerState* after) const {
  if (bidirectional_)
    return ops::sequence_norm(x_BLD, timenorm_.weight + 1, timenorm_.bias,
                              {config_.norm_num_groups, config_.norm_eps, input.padding_BL})
        .y_BLD;
  const auto norm = ops::timestep_norm(
      x_BLD, timenorm_.weight, timenorm_.bias,
      {config_.norm_num_groups, config_.norm_eps, before.norm(), {}, input.starts_BL, average_type(x_BLD, precision_)});
  if (after != nullptr)
    after->norm_count_B = norm.state.count_B, after->norm_mean_BG = norm.state.mean_BG,
    after->norm_var_BG = norm.state.var_BG;
  return norm.y_BLD;
}

Tensor MegaAttention::average(const Tensor& t_BLD, const ModelInput& input, const MegalodonLayerState& before,
                              MegalodonLayerState* after) {
  const nn::CemaCoefficients cema = kept_cema_.of({cema_alpha_, cema_delta_, cema_theta_, cema_gamma_}, [&] {
    return nn::cema_coefficients(cema_alpha_, cema_delta_, cema_theta_, cema_gamma_);
  });
  const Tensor omega_D = cema_omega_.squeeze(-1);
  if (bidirectional_) return nn::two_way_average(t_BLD, cema.q_DN, cema.c_DN, omega_D);  // t is 0 at padding
  const auto average = ops::linear_recurrence(t_BLD, cema.q_DN, cema.c_DN, omega_D,
                                              {before.cema_BDN, input.starts_BL, after != nullptr});
  if (after != nullptr) after->cema_BDN = average.h_BDN;
  return average.y_BLD;
}

Tensor MegaAttention::attend(const Tensor& z_BLZ, const Tensor& t_BLD, const ModelInput& input,
                             const ops::KeyValueRows* caches, const MegalodonLayerState& before,
                             MegalodonLayerState* after, uint64_t dropout_key) {
  const int64_t B = t_BLD.size(0), L = t_BLD.size(1), H = config_.num_heads, K = config_.z_dim / H;
  const auto positions = caches != nullptr ? ops::ChunkPositions{ops::step_positions(*caches, L, t_BLD.device()), {}}
                                           : ops::chunk_positions(B, L, config_.chunk_size, input.starts_BL,
                                                                  before.position_B, t_BLD.device());

  const Tensor scale_2Z = kept_scale_.of({gamma_}, [&] { return (gamma_ + 1) / std::sqrt(static_cast<double>(K)); });
  const auto [q_BLHK, k_BLHK] = ops::query_key(z_BLZ.view({B, L, H, K}), scale_2Z, beta_, positions.position_BL,
                                               config_.norm_eps, config_.rope_base, t_BLD.scalar_type());
  const Tensor v_BLHV = ops::gated_silu(wv_(t_BLD, precision_), {}).view({B, L, H, -1});
  if (caches != nullptr) {
    check(!input.starts_BL.defined(), "[megalodon] a stream with caches is one document");
    return ops::cached_attention(q_BLHK, k_BLHK, v_BLHV, *caches, {}, precision_).reshape({B, L, -1});
  }

  const double dropout = is_training() ? config_.attention_dropout : 0;
  if (bidirectional_) {
    ops::AttentionOptions options;
    options.causal = false, options.chunk_size = config_.chunk_size, options.padding_BJ = input.padding_BL;
    options.dropout = dropout, options.dropout_key = derive_key(dropout_key, kOnProbabilities);
    options.precision = precision_;
    return ops::attention(q_BLHK, k_BLHK, v_BLHV, options).reshape({B, L, -1});
  }
  ops::ChunkAttentionOptions options;
  options.chunk_size = config_.chunk_size;
  options.starts_BL = input.starts_BL;
  options.prior_k_BTHK = before.k_BTHK, options.prior_v_BTHV = before.v_BTHV, options.position_B = before.position_B;
  options.dropout = dropout;
  options.precision = precision_;
  options.dropout_key = derive_key(dropout_key, kOnProbabilities);
  const Tensor y_BLHV = ops::chunk_attention(q_BLHK, k_BLHK, v_BLHV, options);

  if (after != nullptr) {
    const auto open = positions.next_B.max().item<int64_t>();
    after->k_BTHK = last_steps(before.k_BTHK, k_BLHK, open);
    after->v_BTHV = last_steps(before.v_BTHV, v_BLHV, open);
    after->position_B = positions.next_B;
  }
  return y_BLHV.reshape({B, L, -1});
}

// ---- feed-forward block ---------------------------------------------------------------------------------------------

NormalizedFfn::NormalizedFfn(const MegalodonConfig& config, int64_t layer) : config_(config), layer_(layer) {
  const int64_t D = config.model_dim, F = config.ffn_hidden_dim;
  if (config.rescale_nffn) alpha_ = register_at(*this, "alpha", {D});
  if (config.norm_affine) norm_ = nn::Affine(*this, "norm", D);
  fc1_ = nn::Linear(*this, "fc1", D, F, /*with_bias=*/false);
  fc2_ = nn::Linear(*this, "fc2", F, D, false);
  if (config.swiglu) fc3_ = nn::Linear(*this, "fc3", D, F, false);
}

void NormalizedFfn::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const nn::Linear* layer : linears())
    nn::init_linear(layer->weight, config_.init_mode, derive_key(key, stream++));
  if (alpha_.defined()) alpha_.fill_(0.1 * std::pow(0.5, static_cast<double>(layer_)));
  norm_.init_weights();
}

std::vector<nn::Linear*> NormalizedFfn::linears() {
  if (config_.swiglu) return {&fc1_, &fc2_, &fc3_};
  return {&fc1_, &fc2_};
}

Tensor NormalizedFfn::forward(const Tensor& x_BLD, const Tensor& residual_BLD, uint64_t dropout_key) {
  const Tensor u_BLD =
      ops::layer_norm(x_BLD, norm_.weight, norm_.bias, config_.norm_eps, activation_type(x_BLD, precision_));
  std::vector<ops::LinearLayer> inner = {fc1_.plus()};
  if (config_.swiglu) inner.push_back(fc3_.plus());
  const auto of_u = ops::linears(u_BLD, inner, precision_);
  const Tensor hidden_BLF = drop(ops::gated_silu(of_u[0], config_.swiglu ? of_u[1] : Tensor()), config_.hidden_dropout,
                                 dropout_key, kOnFfnHidden, is_training());
  const bool drops = is_training() && config_.dropout > 0;
  if (!drops && !alpha_.defined()) return fc2_(hidden_BLF, precision_, residual_BLD);
  const Tensor out_BLD = drop(fc2_(hidden_BLF, precision_), config_.dropout, dropout_key, kOnFfnOutput, is_training());
  return alpha_.defined() ? torch::addcmul(residual_BLD, out_BLD, alpha_) : residual_BLD + out_BLD;
}

// ---- block and model ------------------------------------------------------------------------------------------------

namespace {

class MegalodonBlock final : public StackedLayer {
 public:
  MegalodonBlock(const MegalodonConfig& config, int64_t layer, bool bidirectional = false) {
    mega_ = register_module("mega", std::make_shared<MegaAttention>(config, bidirectional));
    nffn_ = register_module("nffn", std::make_shared<NormalizedFfn>(config, layer));
  }

  Tensor forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                 uint64_t dropout_key) override {
    const Tensor y_BLD = mega_->forward(x_BLD, input, carry, slot, dropout_key);
    return nffn_->forward(y_BLD, /*residual_BLD=*/x_BLD, dropout_key);
  }

  void init_weights(uint64_t key) override {
    mega_->init_weights(derive_key(key, 0));
    nffn_->init_weights(derive_key(key, 1));
  }

  void set_precision(nn::Precision precision) override {
    mega_->set_precision(precision);
    nffn_->set_precision(precision);
  }

  std::vector<nn::Linear*> linears() override {
    std::vector<nn::Linear*> list = mega_->linears();
    for (nn::Linear* linear : nffn_->linears()) list.push_back(linear);
    return list;
  }

 private:
  std::shared_ptr<MegaAttention> mega_;
  std::shared_ptr<NormalizedFfn> nffn_;
};

class Megalodon final : public LayerStack {
 public:
  explicit Megalodon(const MegalodonConfig& config) : LayerStack(config.vocab_size, config.model_dim), config_(config) {
    for (int64_t i = 0; i < config.num_layers; ++i) add_layer(std::make_shared<MegalodonBlock>(config, i));
    final_norm_ = nn::Affine(*this, "output.final_norm", config.model_dim);
    add_output(config.outputs(), config.share_emb);
  }

  const ModelConfig& config() const override { return config_; }

  void init_weights(uint64_t seed) override {
    LayerStack::init_weights(seed);
    final_norm_.init_weights();
  }

  void replace_norm_statistics(StreamCarry& carry, const StreamCarry& fresh) const override {
    for (size_t slot = 0; slot < carry.slots().size(); ++slot)
      std::copy_n(fresh.slots()[slot].begin(), 3,
                  carry.slots()[slot].begin());  // count, mean, var come first in pack()
  }

  void check_state(int64_t slot, const State& state, int64_t tokens) const override {
    const auto count = state[0].item<int64_t>();  // count, mean, var come first in pack()
    check(count == tokens, "the norm statistics of slot {} are of {} tokens, the stream is of {}", slot, count, tokens);
    check(state[2].ge(0).all().item<bool>(), "a variance of slot {} is negative", slot);
  }

  ModelInfo info() const override {
    const MegalodonConfig& c = config_;
    ModelInfo info;
    info.chunk_size = c.chunk_size;
    info.parameters = nn::count_parameters(*this);
    const int64_t ffn = c.model_dim * c.ffn_hidden_dim * (c.swiglu ? 3 : 2);
    const int64_t attention = c.model_dim * (c.z_dim + 2 * c.value_dim + c.model_dim) + c.value_dim * c.model_dim;
    info.matrix_parameters = c.num_layers * (attention + ffn) + c.outputs() * c.model_dim;
    // CEMA: 6 multiply-adds per (feature, order); attention: scores and weighted values.
    info.flops = 2.0 * info.matrix_parameters + 12.0 * c.num_layers * c.model_dim * c.cema_ndim;
    info.flops_per_key = 2.0 * c.num_layers * (c.z_dim + c.value_dim);
    const int64_t norm = 8 + 2 * 8 * c.norm_num_groups;
    info.state_bytes_fixed = c.num_layers * (norm + 8 + 8 * c.model_dim * c.cema_ndim) + norm;
    info.state_bytes_full = info.state_bytes_fixed + c.num_layers * 4 * (c.chunk_size - 1) * (c.z_dim + c.value_dim);
    info.cache = {c.num_layers, c.chunk_size, c.num_heads, c.z_dim / c.num_heads, c.value_dim / c.num_heads};
    info.repeats_steps = true;
    return info;
  }

 protected:
  Tensor embedded(const Tensor& rows_BLD, const ModelInput& input, Carry&) override {
    check(!input.padding_BL.defined(), "[megalodon] padding is not read: put documents behind one another");
    const Tensor x_BLD = config_.scale_emb ? rows_BLD * std::sqrt(static_cast<double>(config_.model_dim)) : rows_BLD;
    return drop(x_BLD, config_.dropout, dropout_key_, kOnEmbedding, is_training());
  }

  Tensor final_norm(const Tensor& x_BLD, const ModelInput& input, Carry& carry) override {
    const State before = carry.before(config_.num_layers);
    ops::TimestepNormOptions options{config_.norm_num_groups, config_.norm_eps, {}, {}, input.starts_BL, {}};
    if (!before.empty()) options.state = {before[0], before[1], before[2]};
    const auto norm = ops::timestep_norm(x_BLD, final_norm_.weight, final_norm_.bias, options);
    if (carry.wants_after())
      carry.after(config_.num_layers, {norm.state.count_B, norm.state.mean_BG, norm.state.var_BG});
    return norm.y_BLD;
  }

 private:
  MegalodonConfig config_;
  nn::Affine final_norm_;
};

}  // namespace

std::unique_ptr<Model> MegalodonConfig::build() const {
  validate();
  if (chunk_size == 0) fail_usage("[model.chunk_size] a language model wants chunks: only encoders may have 0");
  return std::make_unique<Megalodon>(*this);
}

// ---- encoder --------------------------------------------------------------------------------------------------------

MegalodonEncoder::MegalodonEncoder(const MegalodonConfig& config)
    : LayeredEncoder(config.model_dim, config.dropout), config_(config) {
  for (int64_t i = 0; i < config.num_layers; ++i)
    add_layer(std::make_shared<MegalodonBlock>(config, i, /*bidirectional=*/true));
  final_norm_ = nn::Affine(*this, "final_norm", config.model_dim);
}

void MegalodonEncoder::init_weights(uint64_t seed) {
  LayeredEncoder::init_weights(seed);
  final_norm_.init_weights();
}

Tensor MegalodonEncoder::final_norm(const Tensor& x_BLD, const Tensor& padding_BL) {
  return ops::sequence_norm(x_BLD, final_norm_.weight + 1, final_norm_.bias,
                            {config_.norm_num_groups, config_.norm_eps, padding_BL})
      .y_BLD;
}

std::unique_ptr<Encoder> MegalodonConfig::build_encoder() const {
  validate();
  return std::make_unique<MegalodonEncoder>(*this);
}

}  // namespace megalodon
