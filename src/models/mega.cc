// Mega (Ma et al., 2023), a layer:
//
//   x' = norm(x)                                      prenorm; otherwise x' = x and y = norm(y)
//   m  = silu(EMA(x') + ω x')                         v = act(Wv x' + bv)
//   [u | z | r | hx] = Wm m + bm                      z = silu(z)
//   q, k = z ⊙ γ_i + β_i                              i = 0, 1
//   h  = act(hx + Wh (attention(q, k, v) ⊙ silu(r)) + bh)
//   y  = x + σ(u) ⊙ (h − x)
//   out = y + W2 act(W1 norm(y) + b1) + b2
//
// Attention is that of ops::relative_attention inside chunks of C steps (Mega-chunk), or full.
//
// Departures from the published code: a stream with a truncated average gives what one pass gives (there, streams do
// not truncate); any split of a sequence into calls is allowed; documents may follow one another in a row.
//
// Shapes: B batch · L time · D model · N EMA order · Z shared query/key · E value · C chunk · F ffn.
#include "models/mega.h"

#include <cmath>

#include "base/philox.h"
#include "models/config_checks.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/parameters.h"
#include "ops/attention/attention.h"
#include "ops/cached_attention/cached_attention.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/gated_silu/gated_silu.h"
#include "ops/linear_recurrence/linear_recurrence.h"
#include "ops/rotary/rotary.h"

namespace megalodon {

using nn::activate;
using nn::activation_type;
using nn::drop;
using nn::register_at;

// ---- configuration --------------------------------------------------------------------------------------------------

ops::Scores MegaLayerConfig::scores() const {
  if (attention == "softmax") return ops::Scores::kSoftmax;
  return attention == "laplace" ? ops::Scores::kLaplace : ops::Scores::kRelu2;
}

nn::FeedForwardConfig MegaLayerConfig::feed_forward() const {
  return {.dim = model_dim,
          .hidden = ffn_hidden_dim,
          .activation = activation,
          .norm = norm,
          .prenorm = prenorm,
          .norm_eps = norm_eps,
          .hidden_dropout = {activation_dropout},
          .dropout = {dropout}};
}

void MegaConfig::visit(config::Visitor& v) {
  v.field("num_layers", num_layers, "layers");
  v.field("model_dim", layer.model_dim, "D, width of the residual stream");
  v.field("z_dim", layer.z_dim, "Z, width of queries and keys");
  v.field("value_dim", layer.value_dim, "E, width of the values");
  v.field("ffn_hidden_dim", layer.ffn_hidden_dim, "F, hidden width of the feed-forward blocks; 0: none");
  v.field("ema_ndim", layer.ema_ndim, "N, order of the moving average");
  v.field("truncation", layer.truncation,
          "steps that the moving average sees, and of whose inputs a stream keeps as many; 0: all");
  v.field("chunk_size", layer.chunk_size, "C, steps per attention chunk; 0: no chunks");
  v.field("attention", layer.attention, "what scores become: softmax, laplace or relu2");
  v.field("position", layer.position, "bias of attention by distance: rotary, or simple (a table)");
  v.field("max_positions", layer.max_positions, "steps that the table of a simple bias reaches without chunks");
  v.field("activation", layer.activation, "of values, outputs and feed-forward blocks: silu, gelu or relu");
  v.field("norm", layer.norm, "layer, rms or scale (one weight for all features); of encoders also batch");
  v.field("prenorm", layer.prenorm, "norms before attention and feed-forward blocks; false: behind the sums");
  v.field("norm_eps", layer.norm_eps, "added to variances");
  v.field("norm_emb", norm_emb, "a norm on the embedding");
  v.field("final_norm_affine", final_norm_affine, "weight and bias in the last norm (prenorm)");
  v.field("scale_emb", scale_emb, "multiply embeddings by √D");
  v.field("vocab_size", vocab_size, "tokens");
  v.field("output_size", output_size, "classes of the output layer; -1: vocab_size");
  v.field("share_emb", share_emb, "the output matrix is the embedding");
  adaptive.visit(v);
  v.field("dropout", layer.dropout, "on the embedding, the moving average and the outputs of layers");
  v.field("hidden_dropout", layer.hidden_dropout, "on the values");
  v.field("activation_dropout", layer.activation_dropout, "on the feed-forward hidden layer");
  v.field("attention_dropout", layer.attention_dropout, "on attention weights");
}

void MegaLayerConfig::validate() const {
  check_sizes({{"model.model_dim", model_dim},
               {"model.z_dim", z_dim},
               {"model.value_dim", value_dim},
               {"model.ema_ndim", ema_ndim},
               {"model.max_positions", max_positions}});
  check_sizes(
      {{"model.ffn_hidden_dim", ffn_hidden_dim}, {"model.truncation", truncation}, {"model.chunk_size", chunk_size}},
      0);
  check_factor("model.ema_ndim", ema_ndim, "model_dim", model_dim);
  check_size("model.model_dim, doubled, with z_dim and value_dim", 2 * model_dim + z_dim + value_dim);
  check_one_of("model.attention", attention, {"softmax", "laplace", "relu2"});
  check_one_of("model.position", position, {"rotary", "simple"});
  check_one_of("model.activation", activation, {"silu", "gelu", "relu"});
  check_one_of("model.norm", norm, {"layer", "rms", "scale", "batch"});
  if (position == "rotary" && z_dim % 2 != 0) fail_usage("[model.z_dim] must be even (rotary pairs), got {}", z_dim);
  check_positive("model.norm_eps", norm_eps);
  check_probability("model.dropout", dropout);
  check_probability("model.hidden_dropout", hidden_dropout);
  check_probability("model.activation_dropout", activation_dropout);
  check_probability("model.attention_dropout", attention_dropout);
}

void MegaConfig::validate() const {
  layer.validate();
  check_size("model.num_layers", num_layers);
  check_vocabulary(vocab_size, output_size, share_emb);
  adaptive.validate(vocab_size, layer.model_dim, share_emb && outputs() == vocab_size);
}

std::unique_ptr<ModelConfig> make_mega_config() {
  return std::make_unique<MegaConfig>();
}

std::vector<Preset> mega_presets() {
  std::vector<Preset> presets;
  const auto add = [&](const char* name, const char* note, MegaConfig config) {
    presets.push_back({name, note, std::make_shared<MegaConfig>(std::move(config))});
  };
  const auto sized = [](int64_t layers, int64_t dim, int64_t z, int64_t value, int64_t ffn, int64_t chunk) {
    MegaConfig c;
    c.num_layers = layers, c.layer.model_dim = dim, c.layer.z_dim = z, c.layer.value_dim = value;
    c.layer.ffn_hidden_dim = ffn, c.layer.chunk_size = chunk, c.share_emb = true;
    return c;
  };
  MegaConfig enwik8 = sized(12, 512, 128, 1024, 1024, 2048);
  // The published truncation of 8,192 steps is that of the longest sequences in training: it cuts nothing.
  enwik8.final_norm_affine = false, enwik8.layer.dropout = 0.1;
  enwik8.vocab_size = 256;
  add("mega_chunk-enwik8", "the paper's model of enwik8, on bytes", enwik8);
  MegaConfig wikitext = sized(16, 1024, 256, 2048, 2048, 1024);
  wikitext.final_norm_affine = false, wikitext.vocab_size = 267744;
  wikitext.adaptive.cutoffs = "20000,60000", wikitext.adaptive.dropout = 0.2;
  wikitext.layer.dropout = 0.3;
  wikitext.layer.attention_dropout = wikitext.layer.hidden_dropout = wikitext.layer.activation_dropout = 0.1;
  add("mega_chunk-wikitext103", "the paper's model of WikiText-103", wikitext);

  const auto for_comparisons = [](MegaConfig config) {
    config.vocab_size = 8192, config.scale_emb = false;  // see Megalodon's presets of these sizes
    return config;
  };
  add("mega_chunk-11M", "of the size of the other -11M, for comparisons",
      for_comparisons(sized(4, 384, 96, 768, 1024, 512)));
  add("mega_chunk-45M", "of the size of the other -45M, for comparisons",
      for_comparisons(sized(5, 768, 128, 1536, 1920, 512)));

  MegaConfig tiny = sized(2, 16, 8, 24, 20, 8);
  tiny.vocab_size = 256, tiny.layer.ema_ndim = 4;
  add("mega_chunk-tiny", "a toy for trying things out and for tests", tiny);
  MegaConfig other = tiny;
  other.layer.chunk_size = 0, other.layer.position = "simple";
  other.layer.max_positions = 128, other.layer.truncation = 10, other.layer.norm = "scale";
  other.norm_emb = true, other.share_emb = false;
  add("mega-tiny", "the same without chunks and with Mega's other switches", other);
  MegaConfig laplace = tiny;
  laplace.layer.attention = "laplace", laplace.layer.norm = "rms", laplace.layer.activation = "gelu";
  laplace.scale_emb = false;
  add("mega_laplace-tiny", "the same with other scores", laplace);
  return presets;
}

// ---- state ----------------------------------------------------------------------------------------------------------

State MegaLayerState::pack() const {
  State state = {ema_BDN};
  if (window_BTD.defined()) state.insert(state.end(), {dropped_BDN, window_BTD});
  if (position_B.defined()) state.insert(state.end(), {k_BTHK, v_BTHV, position_B});
  return state;
}

MegaLayerState MegaLayerState::unpack(const State& state, bool truncated) {
  MegaLayerState s;
  if (state.empty()) return s;
  const size_t own = truncated ? 3 : 1;
  check(state.size() == own || state.size() == own + 3, "[mega] a layer's state has {} or {} tensors, got {}", own,
        own + 3, state.size());
  s.ema_BDN = state[0];
  if (truncated) s.dropped_BDN = state[1], s.window_BTD = state[2];
  if (state.size() > own) s.k_BTHK = state[own], s.v_BTHV = state[own + 1], s.position_B = state[own + 2];
  return s;
}

namespace {

enum MegaSite : uint64_t {
  kOnMegaAverage,
  kOnMegaValues,
  kOnMegaWeights,
  kOnMegaHidden,
  kOnMegaCrossValues,
  kOnMegaCrossWeights,
  kOnMegaCrossHidden,
  kOnMegaFfn,
  kOnMegaEmbedding
};

/// Keys of a chunk that is all padding are seen after all, as the published code has it: what becomes of padding shows
/// in batch norms.
Tensor masked_padding(const Tensor& padding_BL, int64_t chunk_size) {
  if (!padding_BL.defined()) return padding_BL;
  const int64_t B = padding_BL.size(0), L = padding_BL.size(1), C = chunk_size > 0 ? std::min(chunk_size, L) : L;
  const Tensor chunks_BNC = torch::constant_pad_nd(padding_BL, {0, (C - L % C) % C}, 1).reshape({B, -1, C});
  return chunks_BNC.logical_and(chunks_BNC.all(-1, /*keepdim=*/true).logical_not()).view({B, -1}).narrow(1, 0, L);
}

/// y = x + σ(u) ⊙ (h − x)
Tensor gated_update(const Tensor& x, const Tensor& u, const Tensor& h) {
  return x + torch::sigmoid(u) * (h - x);
}

}  // namespace

// ---- relative bias --------------------------------------------------------------------------------------------------

RelativeBias::RelativeBias(const std::string& position, int64_t max_positions, int64_t z_dim) {
  if (position == "simple") {
    table_ = register_at(*this, "rel_pos_bias", {2 * max_positions - 1});
  } else {
    alpha_ = register_at(*this, "alpha", {1, z_dim});
    beta_ = register_at(*this, "beta", {1, z_dim});
  }
}

Tensor RelativeBias::table(int64_t positions) {
  if (table_.defined()) return table_;
  if (torch::GradMode::is_enabled()) return rotary_table(positions);
  // For twice as many: a stream that grows wants one more with every token.
  const auto make = [&] { return rotary_table(std::max<int64_t>(2 * positions, 64)); };
  Tensor kept = kept_.of({alpha_, beta_}, make);
  if (kept.size(0) < 2 * positions - 1) {
    kept_ = {};
    kept = kept_.of({alpha_, beta_}, make);
  }
  return kept;
}

Tensor RelativeBias::rotary_table(int64_t positions) const {
  // <R_i a, R_j b> = <a, R_(j−i) b>
  const int64_t half = alpha_.size(1) / 2;
  const auto type = alpha_.options().requires_grad(false);
  const Tensor frequency_Z = torch::pow(10000.0, torch::arange(half, type.dtype(torch::kFloat64)) / -half);
  const Tensor offset_O1 = torch::arange(1 - positions, positions, type.dtype(torch::kFloat64)).unsqueeze(1);
  const Tensor angle_OZ = offset_O1 * frequency_Z;
  const Tensor a = alpha_[0], b = beta_[0];
  const Tensor a0 = a.narrow(0, 0, half), a1 = a.narrow(0, half, half);
  const Tensor b0 = b.narrow(0, 0, half), b1 = b.narrow(0, half, half);
  return torch::matmul(torch::cos(angle_OZ).to(type.dtype()), a0 * b0 + a1 * b1) +
         torch::matmul(torch::sin(angle_OZ).to(type.dtype()), a1 * b0 - a0 * b1);
}

Tensor RelativeBias::rotated(const Tensor& position_BL) const {
  const int64_t Z = alpha_.size(1);
  // Halves become adjacent pairs, which is how ops::rotary() turns them.
  const Tensor pairs_2Z = torch::cat({alpha_, beta_}).view({2, 2, Z / 2}).transpose(1, 2).reshape({2, Z});
  return ops::rotary(pairs_2Z.expand({position_BL.size(0), position_BL.size(1), 2, Z}).contiguous(), position_BL,
                     10000);
}

void RelativeBias::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const Tensor& t : {table_, alpha_, beta_})
    if (t.defined()) nn::normal(t, 0.02, derive_key(key, stream++));
}

// ---- moving average -------------------------------------------------------------------------------------------------

MovingAverage::MovingAverage(const MegaLayerConfig& config)
    : truncation_(config.truncation), bidirectional_(config.bidirectional) {
  const int64_t D = config.model_dim, rows = bidirectional_ ? 2 * D : D, N = config.ema_ndim;
  delta_ = register_at(*this, "delta", {rows, N, 1});
  alpha_ = register_at(*this, "alpha", {rows, N, 1});
  beta_ = register_at(*this, "beta", {rows, N, 1});
  gamma_ = register_at(*this, "gamma", {rows, N});
  omega_ = register_at(*this, "omega", {D});
}

MovingAverage::Coefficients MovingAverage::recurrence() const {
  const nn::EmaCoefficients ema = coefficients();
  const auto complex = [](const Tensor& real) { return torch::complex(real, torch::zeros_like(real)); };
  Coefficients result = {complex(ema.q_DN), complex(ema.c_DN), {}};
  if (truncation_ > 0) result.dropped_RN = complex(ema.c_DN * ema.q_DN.pow(truncation_));
  return result;
}

/// The average of all steps, less that of the steps beyond the truncation: those, weighed with c q^truncation, are a
/// recurrence of the inputs of so many steps ago.
Tensor MovingAverage::averaged(const Tensor& x_BLD, const Tensor& skip_D, const Coefficients& c,
                               const Tensor& starts_BL, const MegaLayerState& before, MegaLayerState* after) const {
  const int64_t L = x_BLD.size(1);
  const auto all = ops::linear_recurrence(x_BLD, c.q_RN, c.c_RN, skip_D, {before.ema_BDN, starts_BL, after != nullptr});
  if (after != nullptr) after->ema_BDN = all.h_BDN;
  const bool streams = after != nullptr || before.ema_BDN.defined();
  if (truncation_ == 0 || (!streams && L <= truncation_)) return all.y_BLD;

  const int64_t T = before.window_BTD.defined() ? before.window_BTD.size(1) : 0, S = T + L;
  const Tensor steps_BSD = T > 0 ? torch::cat({before.window_BTD.to(x_BLD.scalar_type()), x_BLD}, 1) : x_BLD;
  Tensor document_BS;  // 0 is the one that was open before
  if (starts_BL.defined()) document_BS = torch::constant_pad_nd(starts_BL.to(torch::kInt64).cumsum(1), {T, 0}, 0);
  // Steps from `begin` on, 0 where those from `reader` on, or the one there, are of other documents.
  const auto steps = [&](int64_t begin, int64_t count, int64_t reader, int64_t readers) {
    const Tensor part_BSD = steps_BSD.narrow(1, begin, count);
    if (!document_BS.defined()) return part_BSD;
    const Tensor same = document_BS.narrow(1, begin, count) == document_BS.narrow(1, reader, readers);
    return part_BSD * same.unsqueeze(-1).to(part_BSD.scalar_type());
  };
  const int64_t late = std::min(truncation_ - T, L);  // steps that drop nothing yet
  const auto dropped = ops::linear_recurrence(
      torch::constant_pad_nd(steps(0, L - late, T + late, L - late), {0, 0, late, 0}), c.q_RN, c.dropped_RN,
      torch::zeros_like(skip_D), {before.dropped_BDN, starts_BL, after != nullptr});
  if (after != nullptr) {
    const int64_t kept = std::min(truncation_, S);  // of fewer steps the window is not full yet
    after->dropped_BDN = dropped.h_BDN;
    after->window_BTD = torch::constant_pad_nd(steps(S - kept, kept, S - 1, 1), {0, 0, truncation_ - kept, 0});
  }
  return all.y_BLD - dropped.y_BLD;
}

Tensor MovingAverage::forward(const Tensor& x_BLD, const ModelInput& input, const MegaLayerState& before,
                              MegaLayerState* after) {
  check(!bidirectional_ || (!before.ema_BDN.defined() && after == nullptr && !input.starts_BL.defined()),
        "[mega] averages of both directions read whole sequences, not streams or documents");
  const Coefficients c = kept_.of({delta_, alpha_, beta_, gamma_}, [&] { return recurrence(); });
  const Tensor real_BLD = zero_padding(x_BLD, input.padding_BL);
  Tensor y_BLD;
  if (bidirectional_) {  // one pass over x and over x from its other end, side by side
    const Tensor skip_2D = torch::cat({omega_, torch::zeros_like(omega_)});
    const auto halves = averaged(torch::cat({real_BLD, real_BLD.flip(1)}, 2), skip_2D, c, {}, {}, nullptr).chunk(2, 2);
    y_BLD = halves[0] + halves[1].flip(1);
  } else {
    y_BLD = averaged(real_BLD, omega_, c, input.starts_BL, before, after);
  }
  if (input.padding_BL.defined()) y_BLD = y_BLD + omega_ * (x_BLD - real_BLD);
  return ops::gated_silu(y_BLD, {});
}

// ---- gated attention ------------------------------------------------------------------------------------------------

GatedAttention::GatedAttention(const MegaLayerConfig& config) : config_(config) {
  const int64_t D = config.model_dim, Z = config.z_dim, E = config.value_dim;
  norm_ = register_module("norm", std::make_shared<nn::Norm>(config.norm, D, config.norm_eps));
  move_ = register_module("move", std::make_shared<MovingAverage>(config));
  v_proj_ = nn::Linear(*this, "v_proj", D, E, /*with_bias=*/true);
  mx_proj_ = nn::Linear(*this, "mx_proj", D, 2 * D + Z + E, true);
  h_proj_ = nn::Linear(*this, "h_proj", E, D, true);
  gamma_ = register_at(*this, "gamma", {2, Z});
  beta_ = register_at(*this, "beta", {2, Z});
  const int64_t reach = config.chunk_size > 0 ? config.chunk_size : config.max_positions;
  bias_ = register_module("rel_pos_bias", std::make_shared<RelativeBias>(config.position, reach, Z));
}

void GatedAttention::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  nn::init_linears(linears(), "bert", derive_key(key, 0));
  move_->init_weights(derive_key(key, 1));
  bias_->init_weights(derive_key(key, 2));
  nn::normal(gamma_, 0.02, derive_key(key, 3));
  beta_.zero_();
  norm_->init_weights();
}

GatedAttention::Projected GatedAttention::project(const Tensor& x_BLD, const ModelInput& input,
                                                  const MegaLayerState& before, MegaLayerState* after,
                                                  uint64_t dropout_key) {
  const Tensor normed_BLD = config_.prenorm ? norm_->forward(x_BLD) : x_BLD;
  const Tensor m_BLD = drop(move_->forward(normed_BLD, input, before, after), config_.dropout, dropout_key,
                            kOnMegaAverage, is_training())
                           .to(activation_type(x_BLD, precision_));
  const int64_t D = config_.model_dim;
  const auto parts = mx_proj_(m_BLD, precision_).split_with_sizes({D, config_.z_dim, config_.value_dim, D}, -1);
  return {normed_BLD, parts[0], activate("silu", parts[1]), parts[2].contiguous(), parts[3].contiguous()};
}

Tensor GatedAttention::attend(const Tensor& z_BLZ, const Tensor& v_BLE, const ModelInput& input,
                              const ops::KeyValueRows* caches, const MegaLayerState& before, MegaLayerState* after,
                              uint64_t dropout_key) {
  const int64_t B = z_BLZ.size(0), L = z_BLZ.size(1), Z = z_BLZ.size(2);
  const auto positions = caches != nullptr ? ops::ChunkPositions{ops::step_positions(*caches, L, z_BLZ.device()), {}}
                                           : ops::chunk_positions(B, L, config_.chunk_size, input.starts_BL,
                                                                  before.position_B, z_BLZ.device());
  const Tensor z_wide_BLZ = z_BLZ.to(v_BLE.scalar_type());
  Tensor q_BLZ = z_wide_BLZ * gamma_[0] + beta_[0], k_BLZ = z_wide_BLZ * gamma_[1] + beta_[1];
  const bool tiled = config_.is_tiled();
  if (tiled) {  // q·k/√Z + <R_i α, R_j β> is one product
    const bool same = caches == nullptr && !input.starts_BL.defined() && !before.position_B.defined();
    const Tensor position_BL = same ? positions.position_BL.narrow(0, 0, 1) : positions.position_BL;
    const auto bias = bias_->rotated(position_BL).to(q_BLZ.scalar_type()).expand({B, L, 2, Z}).unbind(2);
    q_BLZ = torch::cat({q_BLZ / std::sqrt(static_cast<double>(Z)), bias[0]}, -1);
    k_BLZ = torch::cat({k_BLZ, bias[1]}, -1);
  }
  const Tensor k_BLHK = k_BLZ.unsqueeze(2), v_BLHV = v_BLE.unsqueeze(2);
  if (caches != nullptr) {
    check(tiled && !input.starts_BL.defined() && !input.padding_BL.defined(),
          "[mega] a stream with caches is one document without padding");
    return ops::cached_attention(q_BLZ.unsqueeze(2), k_BLHK, v_BLHV, *caches, {}, precision_).squeeze(2);
  }
  if (after != nullptr) {
    const auto open = positions.next_B.max().item<int64_t>();
    after->k_BTHK = last_steps(before.k_BTHK, k_BLHK, open), after->v_BTHV = last_steps(before.v_BTHV, v_BLHV, open);
    after->position_B = positions.next_B;
  }
  const double dropout = is_training() ? config_.attention_dropout : 0;
  const uint64_t key = derive_key(dropout_key, kOnMegaWeights);
  if (tiled) {
    ops::AttentionOptions options;
    options.causal = !config_.bidirectional, options.padding_BJ = masked_padding(input.padding_BL, config_.chunk_size);
    options.chunk_size = config_.chunk_size, options.starts_BL = input.starts_BL, options.precision = precision_;
    options.prior_k_BTGK = before.k_BTHK, options.prior_v_BTGV = before.v_BTHV, options.position_B = before.position_B;
    options.dropout = dropout, options.dropout_key = key;
    return ops::attention(q_BLZ.unsqueeze(2), k_BLHK, v_BLHV, options).squeeze(2);
  }
  ops::RelativeAttentionOptions options;
  options.scores = config_.scores(), options.causal = !config_.bidirectional, options.chunk_size = config_.chunk_size;
  options.padding_BJ = input.padding_BL, options.starts_BL = input.starts_BL, options.position_B = before.position_B;
  const bool has_prior = before.k_BTHK.defined() && before.k_BTHK.size(1) > 0;
  if (has_prior) options.prior_k_BTZ = before.k_BTHK.squeeze(2), options.prior_v_BTE = before.v_BTHV.squeeze(2);
  const int64_t keys = L + (has_prior ? before.k_BTHK.size(1) : 0);
  options.bias_O = bias_->table(config_.chunk_size > 0 ? std::min(keys, config_.chunk_size) : keys);
  options.dropout = dropout, options.dropout_key = key;
  return ops::relative_attention(q_BLZ, k_BLZ, v_BLE, options);
}

Tensor GatedAttention::forward(const Tensor& x_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                               uint64_t dropout_key) {
  const MegaLayerState before = MegaLayerState::unpack(carry.before(slot), config_.truncation > 0);
  MegaLayerState after;
  MegaLayerState* const wanted = carry.wants_after() ? &after : nullptr;
  check(!input.padding_BL.defined() || (wanted == nullptr && !before.ema_BDN.defined()),
        "[mega] a stream is read without padding");
  const Projected p = project(x_BLD, input, before, wanted, dropout_key);
  const Tensor v_BLE = drop(activate(config_.activation, v_proj_(p.normed_BLD, precision_)), config_.hidden_dropout,
                            dropout_key, kOnMegaValues, is_training());
  const Tensor attention_BLE = attend(p.z_BLZ, v_BLE, input, carry.caches(slot), before, wanted, dropout_key);
  const Tensor gated_BLE = ops::gated_silu(p.r_BLE, attention_BLE.contiguous());
  const Tensor h_BLD = drop(activate(config_.activation, h_proj_(gated_BLE, precision_, p.hx_BLD)), config_.dropout,
                            dropout_key, kOnMegaHidden, is_training());
  const Tensor y_BLD = gated_update(x_BLD, p.u_BLD, h_BLD);
  if (wanted != nullptr) carry.after(slot, after.pack());
  return config_.prenorm ? y_BLD : norm_->forward(y_BLD);
}

// ---- cross-attention ------------------------------------------------------------------------------------------------

GatedCrossAttention::GatedCrossAttention(const MegaLayerConfig& config) : config_(config) {
  const int64_t D = config.model_dim, Z = config.z_dim;
  norm_ = register_module("norm", std::make_shared<nn::Norm>(config.norm, D, config.norm_eps));
  k_proj_ = nn::Linear(*this, "k_proj", D, Z, /*with_bias=*/true);
  v_proj_ = nn::Linear(*this, "v_proj", D, D, true);
  q_proj_ = nn::Linear(*this, "q_proj", D, 2 * D + Z, true);
  h_proj_ = nn::Linear(*this, "h_proj", D, D, true);
  bias_ = register_module("rel_pos_bias", std::make_shared<RelativeBias>(config.position, config.max_positions, Z));
}

void GatedCrossAttention::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  nn::init_linears(linears(), "bert", derive_key(key, 0));
  bias_->init_weights(derive_key(key, 1));
  norm_->init_weights();
}

GatedCrossAttention::Projected GatedCrossAttention::project(const Tensor& x_BLD) {
  const Tensor normed_BLD = config_.prenorm ? norm_->forward(x_BLD) : x_BLD;
  const int64_t D = config_.model_dim;
  const auto parts = q_proj_(normed_BLD, precision_).split_with_sizes({D, D, config_.z_dim}, -1);
  return {parts[0], parts[1].contiguous(), parts[2]};
}

Tensor GatedCrossAttention::attend(const Tensor& q_BLZ, const Tensor& k_BJZ, const Tensor& v_BJE,
                                   const Tensor& padding_BJ, int64_t first, uint64_t dropout_key) {
  ops::RelativeAttentionOptions options;
  options.scores = config_.scores(), options.causal = false, options.padding_BJ = padding_BJ;
  options.first_query = first;
  options.bias_O = bias_->table(std::max(first + q_BLZ.size(1), k_BJZ.size(1)));
  options.dropout = is_training() ? config_.attention_dropout : 0;
  options.dropout_key = derive_key(dropout_key, kOnMegaCrossWeights);
  return ops::relative_attention(q_BLZ, k_BJZ, v_BJE, options);
}

Tensor GatedCrossAttention::keys(const Memory& memory) const {
  check(memory.x_BJD.defined(), "[mega] cross-attention has no memory to read");
  return k_proj_(memory.x_BJD, precision_);
}

Tensor GatedCrossAttention::forward(const Tensor& x_BLD, const Memory& memory, int64_t first, Carry& carry,
                                    int64_t slot, uint64_t dropout_key) {
  State seen = carry.before(slot);
  if (seen.empty())
    seen = {keys(memory), drop(activate(config_.activation, v_proj_(memory.x_BJD, precision_)), config_.hidden_dropout,
                               dropout_key, kOnMegaCrossValues, is_training())};
  if (carry.wants_after()) carry.after(slot, seen);
  const Projected p = project(x_BLD);
  const Tensor attention_BLD = attend(p.q_BLZ, seen[0], seen[1], memory.padding_BJ, first, dropout_key);
  const Tensor gated_BLD = ops::gated_silu(p.r_BLD, attention_BLD.contiguous());
  const Tensor h_BLD = drop(activate(config_.activation, h_proj_(gated_BLD, precision_)), config_.dropout, dropout_key,
                            kOnMegaCrossHidden, is_training());
  const Tensor y_BLD = gated_update(x_BLD, p.u_BLD, h_BLD);
  return config_.prenorm ? y_BLD : norm_->forward(y_BLD);
}

// ---- layer ----------------------------------------------------------------------------------------------------------

MegaLayer::MegaLayer(const MegaLayerConfig& config) {
  attention_ = register_module("mega_layer", std::make_shared<GatedAttention>(config));
  if (config.cross) cross_ = register_module("cross_attn", std::make_shared<GatedCrossAttention>(config));
  if (config.ffn_hidden_dim > 0)
    ffn_ = register_module("nffn", std::make_shared<nn::FeedForward>(config.feed_forward()));
}

Tensor MegaLayer::forward(const Tensor& x_BLD, const ModelInput& input, const DecoderInput& decoder, Carry& carry,
                          int64_t slot, uint64_t dropout_key) {
  Tensor y_BLD = attention_->forward(x_BLD, input, carry, slot, dropout_key);
  if (cross_ != nullptr)
    y_BLD = cross_->forward(y_BLD, decoder.memory, decoder.first, carry, decoder.slot, dropout_key);
  return ffn_ != nullptr ? ffn_->forward(y_BLD, derive_key(dropout_key, kOnMegaFfn)) : y_BLD;
}

void MegaLayer::init_weights(uint64_t key) {
  attention_->init_weights(derive_key(key, 0));
  if (cross_ != nullptr) cross_->init_weights(derive_key(key, 1));
  if (ffn_ != nullptr) ffn_->init_weights(derive_key(key, 2));
}

void MegaLayer::set_precision(nn::Precision precision) {
  attention_->set_precision(precision);
  if (cross_ != nullptr) cross_->set_precision(precision);
  if (ffn_ != nullptr) ffn_->set_precision(precision);
}

std::vector<nn::Linear*> MegaLayer::linears() {
  std::vector<nn::Linear*> list = attention_->linears();
  const auto add = [&](const std::vector<nn::Linear*>& more) { list.insert(list.end(), more.begin(), more.end()); };
  if (cross_ != nullptr) add(cross_->linears());
  if (ffn_ != nullptr) add(ffn_->linears());
  return list;
}

// ---- language model -------------------------------------------------------------------------------------------------

namespace {

class Mega final : public LayerStack {
 public:
  explicit Mega(const MegaConfig& config)
      : LayerStack(config.vocab_size, config.layer.model_dim, config.adaptive), config_(config) {
    const MegaLayerConfig& c = config.layer;
    if (config.norm_emb)
      embed_norm_ = register_module("embed_norm", std::make_shared<nn::Norm>(c.norm, c.model_dim, c.norm_eps));
    for (int64_t i = 0; i < config.num_layers; ++i) add_layer(std::make_shared<MegaLayer>(c));
    if (c.prenorm)
      final_norm_ = register_module(
          "final_norm", std::make_shared<nn::Norm>(c.norm, c.model_dim, c.norm_eps, config.final_norm_affine));
    add_output(config.outputs(), config.share_emb);
  }

  const ModelConfig& config() const override { return config_; }

  void init_weights(uint64_t seed) override {
    torch::NoGradGuard no_grad;
    LayerStack::init_weights(seed);
    for (const auto& norm : {embed_norm_, final_norm_})
      if (norm != nullptr) norm->init_weights();
  }

  void check_state(int64_t /*slot*/, const State& state, int64_t tokens) const override {
    const MegaLayerState layer = MegaLayerState::unpack(state, config_.layer.truncation > 0);
    if (!layer.position_B.defined()) return;  // it is in the caches
    const auto position = layer.position_B.item<int64_t>();
    check(position == open(tokens), "the position in a chunk is {}, of {} tokens it is {}", position, tokens,
          open(tokens));
  }

  std::optional<int64_t> state_steps(int64_t /*slot*/, size_t tensor, int64_t tokens) const override {
    const size_t keys = config_.layer.truncation > 0 ? 3 : 1;
    if (tensor != keys && tensor != keys + 1) return {};
    return open(tokens);
  }

  ModelInfo info() const override {
    const MegaLayerConfig& c = config_.layer;
    ModelInfo info;
    info.chunk_size = c.chunk_size;
    info.parameters = nn::count_parameters(*this);
    const int64_t D = c.model_dim, E = c.value_dim, Z = c.z_dim;
    const int64_t layer = D * E + D * (2 * D + Z + E) + E * D + 2 * D * c.ffn_hidden_dim;
    info.matrix_parameters = config_.num_layers * layer + vocabulary_parameters();
    // The average: 6 multiply-adds per (feature, order), twice with a truncation; attention: scores and values.
    const int64_t averages = c.truncation > 0 ? 2 : 1;
    info.flops = 2.0 * info.matrix_parameters + 12.0 * averages * config_.num_layers * D * c.ema_ndim;
    const int64_t key = c.is_tiled() ? 2 * Z : Z;
    info.flops_per_key = 2.0 * config_.num_layers * (key + E);
    info.state_bytes_fixed = config_.num_layers * (averages * 8 * D * c.ema_ndim + 4 * c.truncation * D + 8);
    const int64_t a_token = config_.num_layers * 4 * (key + E);
    info.state_bytes_full = info.state_bytes_fixed + std::max<int64_t>(c.chunk_size - 1, 0) * a_token;
    info.state_bytes_a_token = c.chunk_size > 0 ? 0 : a_token;
    if (c.is_tiled()) info.cache = {config_.num_layers, c.chunk_size, 1, key, E};
    info.repeats_steps = c.is_tiled();  // otherwise keys and values are part of the state, which grows
    return info;
  }

 protected:
  Tensor embedded(const Tensor& rows_BLD, const ModelInput& input, Carry&) override {
    Tensor x_BLD = config_.scale_emb ? rows_BLD * std::sqrt(static_cast<double>(config_.layer.model_dim)) : rows_BLD;
    if (embed_norm_ != nullptr) x_BLD = embed_norm_->forward(x_BLD);
    return zero_padding(drop(x_BLD, config_.layer.dropout, dropout_key_, kOnMegaEmbedding, is_training()),
                        input.padding_BL);
  }

  Tensor final_norm(const Tensor& x_BLD, const ModelInput& input, Carry&) override {
    return zero_padding(final_norm_ != nullptr ? final_norm_->forward(x_BLD) : x_BLD, input.padding_BL);
  }

 private:
  int64_t open(int64_t tokens) const {
    return config_.layer.chunk_size > 0 ? tokens % config_.layer.chunk_size : tokens;
  }

  MegaConfig config_;
  std::shared_ptr<nn::Norm> embed_norm_, final_norm_;
};

}  // namespace

std::unique_ptr<Model> MegaConfig::build() const {
  validate();
  if (is_encoder()) fail_usage("[model.norm] batch norms see the steps to come; they are for encoders");
  return std::make_unique<Mega>(*this);
}

std::unique_ptr<Encoder> MegaConfig::build_encoder() const {
  validate();
  MegaStackConfig stack = {layer, num_layers, norm_emb, final_norm_affine};
  stack.layer.bidirectional = true;
  return std::make_unique<MegaStack>(stack);
}

// ---- stacks ---------------------------------------------------------------------------------------------------------

void MegaStackConfig::validate() const {
  layer.validate();
  check_size("model.num_layers", num_layers, 0);
}

MegaStack::MegaStack(const MegaStackConfig& config) : config_(config) {
  config.validate();
  const MegaLayerConfig& c = config.layer;
  if (config.norm_emb)
    embed_norm_ = register_module("embed_norm", std::make_shared<nn::Norm>(c.norm, c.model_dim, c.norm_eps));
  const auto list = register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < config.num_layers; ++i)
    layers_.push_back(list->register_module(std::to_string(i), std::make_shared<MegaLayer>(c)));
  if (c.prenorm)
    final_norm_ = register_module(
        "final_norm", std::make_shared<nn::Norm>(c.norm, c.model_dim, c.norm_eps, config.final_norm_affine));
}

void MegaStack::init_weights(uint64_t seed) {
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->init_weights(derive_key(seed, i));
  for (const auto& norm : {embed_norm_, final_norm_})
    if (norm != nullptr) norm->init_weights();
}

void MegaStack::set_precision(nn::Precision precision) {
  for (const auto& layer : layers_) layer->set_precision(precision);
}

Tensor MegaStack::forward(const Tensor& x_BLD, const Tensor& padding_BL, const Memory& memory, Carry& carry,
                          uint64_t dropout_key) {
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), C = config_.layer.chunk_size;
  const int64_t depth = static_cast<int64_t>(layers_.size()), slot_of_count = 2 * depth;
  const State count = config_.layer.cross ? carry.before(slot_of_count) : State();
  const int64_t first = count.empty() ? 0 : count[0].item<int64_t>();
  if (config_.layer.cross && carry.wants_after())
    carry.after(slot_of_count, {torch::full({}, first + L, torch::kInt64)});

  Tensor x = x_BLD, padding = padding_BL;
  if (config_.layer.bidirectional && C > 0 && L > C && L % C != 0) {
    const int64_t more = C - L % C;
    x = torch::constant_pad_nd(x, {0, 0, 0, more}, 0);
    padding = torch::constant_pad_nd(
        padding.defined() ? padding : torch::zeros({B, L}, x.options().dtype(torch::kBool).requires_grad(false)),
        {0, more}, 1);
  }
  if (embed_norm_ != nullptr) x = embed_norm_->forward(zero_padding(x, padding));
  x = zero_padding(drop(x, config_.layer.dropout, dropout_key, kOnMegaEmbedding, is_training()), padding);
  if (observer_) observer_(-1, x);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto slot = static_cast<int64_t>(i);
    x = layers_[i]->forward(x, {{}, {}, padding}, {memory, first, depth + slot}, carry, slot,
                            derive_key(dropout_key, 64 + i));
    if (observer_) observer_(slot, x);
  }
  if (final_norm_ != nullptr) x = final_norm_->forward(x);
  return zero_padding(x, padding).narrow(1, 0, L);
}

}  // namespace megalodon
