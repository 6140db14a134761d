// Transformers with one set of layers:
//
//   q, k, v = Wq u, Wk u, Wv u        rotated by their positions, or a bias for the distance in the scores (ALiBi)
//   x = x + Wo attention(q, k, v)     of u = norm(x)
//   x = x + W2 (silu(W1 u) ⊙ W3 u)    of u = norm(x); or W2 gelu(W1 u), W2 relu(W1 u)
//
// or, with the norm behind (Vaswani et al.), x = norm(x + …). Attention is full, in chunks, or over a sliding window;
// streams keep the keys and values that later steps will see. Any split of a sequence into calls gives the result of
// one pass, but for dynamic scalings of rotary positions, which are a function of the whole sequence's length.
//
// Shapes: B batch · L time · J keys · D model · H heads · G heads of keys and values · K = V = D/H · F ffn.
#include "models/transformer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/philox.h"
#include "models/config_checks.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/parameters.h"
#include "ops/cached_attention/cached_attention.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/gated_silu/gated_silu.h"
#include "ops/rotary/rotary.h"
#include "ops/row_norm/row_norm.h"

namespace megalodon {

using nn::activation_type;
using nn::drop;
using nn::register_at;

namespace {

enum TransformerSite : uint64_t {
  kAttentionOut,
  kCrossOut,
  kFfnOut,
  kFfnInner,
  kSelfProbabilities,
  kCrossProbabilities,
  kTransformerInput
};

bool is_dynamic(const nn::RopeScaling& scaling) {
  return scaling.kind.starts_with("dynamic_");
}

/// As what is computed from x wants it. Undefined where it is.
Tensor constant_for(const Tensor& x, const nn::Constant& constant) {
  if (!constant.defined()) return {};
  return constant.on(x.device(), x.scalar_type() == torch::kFloat64 ? torch::kFloat64 : torch::kFloat32);
}

}  // namespace

// ---- configuration --------------------------------------------------------------------------------------------------

void TransformerConfig::visit(config::Visitor& v) {
  v.field("num_layers", num_layers, "layers");
  v.field("model_dim", layer.model_dim, "D, width of the residual stream");
  v.field("num_heads", layer.num_heads, "H, attention heads");
  v.field("num_kv_heads", layer.num_kv_heads, "G, heads of keys and values, each read by H/G others; 0: H");
  v.field("ffn_hidden_dim", layer.ffn_hidden_dim, "F, hidden width of the feed-forward blocks");
  v.field("position", layer.position, "how positions are told: rotary, alibi, sinusoidal, learned or none");
  v.field("rope_base", layer.rope_base, "base of the rotary frequencies");
  v.field("rope_scaling", layer.rope.kind,
          "rotary positions beyond those of training: none, linear, ntk, part_ntk, yarn, dynamic_linear, dynamic_ntk, "
          "dynamic_yarn");
  v.field("rope_factor", layer.rope.factor, "how far rope_scaling stretches");
  v.field("rope_original_length", layer.rope.original_length, "of the sequences that rope_scaling stretches");
  v.field("rope_beta_fast", layer.rope.beta_fast, "yarn: turns in the original length above which a frequency stays");
  v.field("rope_beta_slow", layer.rope.beta_slow, "yarn: turns below which it is stretched in full");
  v.field("alibi_max", layer.alibi_max, "alibi: the last head's slope is 2^-alibi_max");
  v.field("max_positions", max_positions, "rows of the table of learned positions");
  v.field("chunk_size", layer.chunk_size, "steps per attention chunk; 0: no chunks");
  v.field("window", layer.window, "steps that sliding attention sees, its own included; 0: all");
  v.field("norm", layer.norm, "rms or layer");
  v.field("norm_eps", layer.norm_eps, "added to variances");
  v.field("prenorm", layer.prenorm, "norms before attention and feed-forward blocks; false: behind the sums");
  v.field("activation", layer.activation, "of the feed-forward blocks: swiglu, gelu or relu");
  v.field("bias", layer.bias, "biases in linear layers and layer norms");
  v.field("qk_norm", layer.qk_norm, "norms on queries and keys, all heads together");
  v.field("clip_qkv", layer.clip_qkv, "bound of queries, keys and values; 0: none");
  v.field("softmax_scale", layer.softmax_scale, "of the scores; 0: 1/√(D/H)");
  v.field("logit_scale", logit_scale, "of the logits");
  v.field("init_mode", layer.init_mode, "initial linear weights: he, bert, xavier, gaussian, none");
  v.field("dropout", layer.dropout, "on the embedding and the outputs of attention and feed-forward blocks");
  v.field("hidden_dropout", layer.hidden_dropout, "on the feed-forward hidden layer");
  v.field("attention_dropout", layer.attention_dropout, "on attention probabilities");
  v.field("vocab_size", vocab_size, "tokens");
  v.field("output_size", output_size, "classes of the output layer; -1: vocab_size");
  v.field("share_emb", share_emb, "the output matrix is the embedding");
}

namespace {

void validate_sizes(const TransformerConfig& c) {
  check_sizes({{"model.num_layers", c.num_layers},
               {"model.model_dim", c.layer.model_dim},
               {"model.num_heads", c.layer.num_heads},
               {"model.ffn_hidden_dim", c.layer.ffn_hidden_dim},
               {"model.max_positions", c.max_positions},
               {"model.rope_original_length", c.layer.rope.original_length}});
  check_sizes({{"model.num_kv_heads", c.layer.num_kv_heads},
               {"model.chunk_size", c.layer.chunk_size},
               {"model.window", c.layer.window}},
              0);
  check_vocabulary(c.vocab_size, c.output_size, c.share_emb);
  if (c.layer.model_dim % c.layer.num_heads != 0)
    fail_usage("[model.model_dim] {} must be divisible by num_heads = {}", c.layer.model_dim, c.layer.num_heads);
  if (c.layer.num_heads % c.layer.kv_heads() != 0)
    fail_usage("[model.num_kv_heads] num_heads = {} must be a multiple of it, got {}", c.layer.num_heads,
               c.layer.num_kv_heads);
}

void validate_words(const TransformerLayerConfig& layer) {
  check_one_of("model.position", layer.position, {"rotary", "alibi", "sinusoidal", "learned", "none"});
  check_one_of("model.rope_scaling", layer.rope.kind, nn::rope_scalings());
  check_one_of("model.norm", layer.norm, {"rms", "layer"});
  check_one_of("model.activation", layer.activation, {"swiglu", "gelu", "relu"});
  check_one_of("model.init_mode", layer.init_mode, nn::init_modes());
}

void validate_numbers(const TransformerConfig& c) {
  const auto not_negative = [](const char* name, double value) {
    if (!(value >= 0)) fail_usage("[model.{}] expected 0 or a positive number, got {}", name, value);
  };
  check_positive("model.norm_eps", c.layer.norm_eps);
  check_positive("model.alibi_max", c.layer.alibi_max);
  check_positive("model.logit_scale", c.logit_scale);
  not_negative("clip_qkv", c.layer.clip_qkv);
  not_negative("softmax_scale", c.layer.softmax_scale);
  check_probability("model.dropout", c.layer.dropout);
  check_probability("model.hidden_dropout", c.layer.hidden_dropout);
  check_probability("model.attention_dropout", c.layer.attention_dropout);
  if (!(c.layer.rope_base > 1)) fail_usage("[model.rope_base] expected a number above 1, got {}", c.layer.rope_base);
  if (!(c.layer.rope.factor >= 1))
    fail_usage("[model.rope_factor] expected a number of at least 1, got {}", c.layer.rope.factor);
}

}  // namespace

void TransformerConfig::validate() const {
  validate_sizes(*this);
  validate_words(layer);
  validate_numbers(*this);
  // Scalings by the base have K − 2 in a denominator.
  if (layer.position == "rotary" && (layer.head_dim() % 2 != 0 || (layer.rope.kind != "none" && layer.head_dim() < 4)))
    fail_usage("[model.position] rotary wants an even model_dim / num_heads, with rope_scaling 4 or more, got {} / {}",
               layer.model_dim, layer.num_heads);
  if (layer.position == "sinusoidal" && layer.model_dim % 2 != 0)
    fail_usage("[model.position] sinusoidal wants an even model_dim, got {}", layer.model_dim);
}

std::unique_ptr<ModelConfig> make_transformer_config() {
  return std::make_unique<TransformerConfig>();
}

std::vector<Preset> transformer_presets() {
  std::vector<Preset> presets;
  const auto add = [&](const char* name, const char* note, TransformerConfig config) {
    presets.push_back({name, note, std::make_shared<TransformerConfig>(std::move(config))});
  };
  TransformerConfig xfm;
  xfm.layer.norm = "layer", xfm.layer.activation = "relu", xfm.layer.position = "sinusoidal";
  xfm.layer.prenorm = false, xfm.layer.bias = true, xfm.share_emb = true, xfm.layer.init_mode = "xavier";
  add("xfm", "the Transformer, base size", xfm);

  const auto llama = [](int64_t layers, int64_t dim, int64_t heads, int64_t ffn) {
    TransformerConfig c;
    c.num_layers = layers, c.layer.model_dim = dim, c.layer.num_heads = heads, c.layer.ffn_hidden_dim = ffn;
    return c;
  };
  TransformerConfig bytes = llama(6, 384, 6, 1024);
  bytes.vocab_size = 256;
  add("llama2-byte11m", "a byte-level model for measurements", bytes);
  const auto for_comparisons = [](TransformerConfig config) {
    config.vocab_size = 8192, config.share_emb = true;
    return config;
  };
  add("llama2-11M", "of the size of the other -11M, for comparisons", for_comparisons(llama(5, 384, 6, 896)));
  add("llama2-45M", "of the size of the other -45M, for comparisons", for_comparisons(llama(6, 768, 12, 1792)));
  add("llama2-200M", "Llama 2 of mega200M's size", llama(12, 1024, 16, 2816));
  const TransformerConfig llama7b = llama(32, 4096, 32, 11008);
  add("llama2-7B", "Llama 2", llama7b);
  add("llama2-13B", "Llama 2", llama(40, 5120, 40, 13824));
  TransformerConfig longer = llama7b;
  longer.layer.rope_base = 500000;
  add("llama2_long-7B", "Llama 2 Long: slower rotary pairs (Xiong et al., 2023)", longer);
  TransformerConfig xgen = llama7b;
  xgen.vocab_size = 51200, xgen.layer.norm_eps = 1e-6;
  add("xgen-7B", "XGen: Llama's layers trained on 8,192 tokens (Nijkamp et al., 2023)", xgen);
  TransformerConfig yarn = llama7b;
  yarn.layer.rope = {.kind = "yarn", .factor = 16, .original_length = 4096};
  add("yarn-7B", "Llama 2 stretched to 65,536 tokens (Peng et al., 2023)", yarn);
  TransformerConfig mpt = llama(32, 4096, 32, 16384);
  mpt.layer.norm = "layer", mpt.layer.activation = "gelu", mpt.layer.position = "alibi", mpt.share_emb = true;
  mpt.vocab_size = 50432;
  add("mpt-7B", "MPT (MosaicML, 2023)", mpt);

  const auto add_toy = [&](const char* name, TransformerConfig config) {
    config.num_layers = 2, config.layer.model_dim = 32, config.layer.num_heads = 4, config.layer.ffn_hidden_dim = 64;
    config.vocab_size = 256;
    add(name, "a toy for trying things out and for tests", std::move(config));
  };
  add_toy("xfm-tiny", xfm);
  TransformerConfig grouped = bytes;
  grouped.layer.num_kv_heads = 2;
  add_toy("llama2-tiny", grouped);
  add_toy("mpt-tiny", mpt);
  return presets;
}

// ---- norm -----------------------------------------------------------------------------------------------------------

TransformerNorm::TransformerNorm(torch::nn::Module& module, const std::string& name, int64_t dim,
                                 const TransformerLayerConfig& config)
    : is_rms_(config.norm == "rms"), eps_(config.norm_eps), affine_(module, name, dim, !is_rms_ && config.bias) {}

Tensor TransformerNorm::operator()(const Tensor& x, std::optional<torch::ScalarType> y_type) const {
  return is_rms_ ? ops::rms_norm(x, affine_.weight, eps_, y_type)
                 : ops::layer_norm(x, affine_.weight, affine_.bias, eps_, y_type);
}

// ---- attention ------------------------------------------------------------------------------------------------------

TransformerAttention::TransformerAttention(const TransformerLayerConfig& config) : config_(config) {
  const int64_t D = config.model_dim, E = config.kv_heads() * config.head_dim();
  wq_ = nn::Linear(*this, "wq", D, D, config.bias);
  wk_ = nn::Linear(*this, "wk", D, E, config.bias);
  wv_ = nn::Linear(*this, "wv", D, E, config.bias);
  wo_ = nn::Linear(*this, "wo", D, D, config.bias);
  if (config.qk_norm) {
    q_norm_ = TransformerNorm(*this, "q_norm", D, config);
    k_norm_ = TransformerNorm(*this, "k_norm", E, config);
  }
  if (config.position == "rotary") {
    const auto rope = nn::rope_frequencies(config.head_dim(), config.rope_base, config.rope);
    frequency_K_ = nn::Constant(rope.frequency_K), rope_magnitude_ = rope.magnitude;
  }
  if (config.position == "alibi") slope_H_ = nn::Constant(nn::alibi_slopes(config.num_heads, config.alibi_max));
}

void TransformerAttention::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const nn::Linear* layer : linears()) {
    nn::init_linear(layer->weight, config_.init_mode, derive_key(key, stream++));
    if (layer->bias.defined()) layer->bias.zero_();
  }
  q_norm_.init_weights();
  k_norm_.init_weights();
}

TransformerAttention::Heads TransformerAttention::heads(const std::vector<Tensor>& projected) const {
  std::vector<Tensor> of = projected;
  if (config_.clip_qkv > 0)
    for (Tensor& t : of) t = t.clamp(-config_.clip_qkv, config_.clip_qkv);
  if (config_.qk_norm) of[0] = q_norm_(of[0]), of[1] = k_norm_(of[1]);
  const auto split = [&](const Tensor& t) { return t.view({t.size(0), t.size(1), -1, config_.head_dim()}); };
  return {split(of[0]), split(of[1]), split(of[2])};
}

void TransformerAttention::rotate(Heads& heads, const Tensor& position_BL) const {
  nn::RopeFrequencies rope;
  if (is_dynamic(config_.rope))
    rope = nn::rope_frequencies(config_.head_dim(), config_.rope_base, config_.rope,
                                position_BL.max().item<int64_t>() + 1);
  else
    rope = {constant_for(heads.q_BLHK, frequency_K_), rope_magnitude_};
  for (Tensor* t : {&heads.q_BLHK, &heads.k_BJGK}) *t = ops::rotary_with_frequencies(*t, position_BL, rope.frequency_K);
  // The magnitude of both: of the queries alone, so that all keys are in one scale.
  if (rope.magnitude != 1) heads.q_BLHK = heads.q_BLHK * (rope.magnitude * rope.magnitude);
}

double TransformerAttention::scale() const {
  return config_.softmax_scale > 0 ? config_.softmax_scale : 1 / std::sqrt(static_cast<double>(config_.head_dim()));
}

Tensor TransformerAttention::attend_cached(const Heads& heads, const ops::KeyValueRows& caches) const {
  return ops::cached_attention(heads.q_BLHK * scale(), heads.k_BJGK, heads.v_BJGV, caches,
                               constant_for(heads.q_BLHK, slope_H_), precision_)
      .flatten(2);
}

Tensor TransformerAttention::attend(const Heads& heads, ops::AttentionOptions options, uint64_t dropout_key) const {
  options.scale = scale();
  options.dropout = is_training() ? config_.attention_dropout : 0;
  options.dropout_key = dropout_key;
  options.precision = precision_;
  return ops::attention(heads.q_BLHK, heads.k_BJGK, heads.v_BJGV, options).flatten(2);
}

Tensor TransformerAttention::forward(const Tensor& u_BLD, const ModelInput& input, Carry& carry, int64_t slot,
                                     uint64_t dropout_key) {
  const State before = carry.before(slot);
  const bool crosses = !before.empty() || carry.wants_after();
  check(!crosses || config_.causal, "[transformer] attention that is not causal reads whole sequences, not streams");
  check(!crosses || !input.padding_BL.defined(), "[transformer] a stream is read without padding");
  check(!crosses || config_.position != "rotary" || !is_dynamic(config_.rope),
        "[transformer] rope_scaling = \"{}\" depends on the length of the whole sequence and cannot stream",
        config_.rope.kind);
  Heads heads = this->heads(ops::linears(u_BLD, {wq_.plus(), wk_.plus(), wv_.plus()}, precision_));
  const ops::KeyValueRows* caches = carry.caches(slot);
  const int64_t B = u_BLD.size(0), L = u_BLD.size(1);
  const Tensor position_B = before.empty() ? Tensor() : before[2];
  const auto positions =
      caches != nullptr ? ops::ChunkPositions{ops::step_positions(*caches, L, u_BLD.device()), {}}
                        : ops::chunk_positions(B, L, config_.chunk_size, input.starts_BL, position_B, u_BLD.device());
  if (config_.position == "rotary") rotate(heads, positions.position_BL);
  if (caches != nullptr) {
    check(!input.starts_BL.defined(), "[transformer] a stream with caches is one document");
    carry.after(slot, {});
    return attend_cached(heads, *caches);
  }

  ops::AttentionOptions options;
  options.causal = config_.causal, options.padding_BJ = input.padding_BL;
  options.slope_H = constant_for(heads.q_BLHK, slope_H_);
  options.chunk_size = config_.chunk_size, options.window = config_.window, options.starts_BL = input.starts_BL;
  const auto seen_later = [&](const Tensor& steps) {
    return config_.window > 0 ? steps.clamp_max(config_.window - 1) : steps;
  };
  if (!before.empty())
    options.prior_k_BTGK = before[0], options.prior_v_BTGV = before[1], options.position_B = position_B;
  const Tensor y_BLD = attend(heads, std::move(options), derive_key(dropout_key, kSelfProbabilities));
  if (carry.wants_after()) {
    const Tensor prior_k = before.empty() ? Tensor() : before[0], prior_v = before.empty() ? Tensor() : before[1];
    const auto kept = seen_later(positions.next_B).max().item<int64_t>();
    carry.after(slot,
                {last_steps(prior_k, heads.k_BJGK, kept), last_steps(prior_v, heads.v_BJGV, kept), positions.next_B});
  }
  return y_BLD;
}

Tensor TransformerAttention::forward(const Tensor& u_BLD, const Memory& memory, uint64_t dropout_key) {
  const auto of_memory = ops::linears(memory.x_BJD, {wk_.plus(), wv_.plus()}, precision_);
  ops::AttentionOptions options;
  options.causal = false, options.padding_BJ = memory.padding_BJ;
  return attend(heads({wq_(u_BLD, precision_), of_memory[0], of_memory[1]}), std::move(options),
                derive_key(dropout_key, kCrossProbabilities));
}

// ---- feed-forward block ---------------------------------------------------------------------------------------------

TransformerFfn::TransformerFfn(const TransformerLayerConfig& config) : config_(config) {
  const int64_t D = config.model_dim, F = config.ffn_hidden_dim;
  w1_ = nn::Linear(*this, "w1", D, F, config.bias);
  w2_ = nn::Linear(*this, "w2", F, D, config.bias);
  if (config.activation == "swiglu") w3_ = nn::Linear(*this, "w3", D, F, config.bias);
}

std::vector<nn::Linear*> TransformerFfn::linears() {
  if (config_.activation == "swiglu") return {&w1_, &w2_, &w3_};
  return {&w1_, &w2_};
}

void TransformerFfn::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const nn::Linear* layer : linears()) {
    nn::init_linear(layer->weight, config_.init_mode, derive_key(key, stream++));
    if (layer->bias.defined()) layer->bias.zero_();
  }
}

Tensor TransformerFfn::forward(const Tensor& u_BLD, uint64_t dropout_key) {
  Tensor hidden_BLF;
  if (config_.activation == "swiglu") {
    const auto of_u = ops::linears(u_BLD, {w1_.plus(), w3_.plus()}, precision_);
    hidden_BLF = ops::gated_silu(of_u[0], of_u[1]);
  } else {
    hidden_BLF = w1_(u_BLD, precision_);
    hidden_BLF = config_.activation == "gelu" ? torch::gelu(hidden_BLF) : torch::relu(hidden_BLF);
  }
  return drop(hidden_BLF, config_.hidden_dropout, dropout_key, kFfnInner, is_training());
}

// ---- layer ----------------------------------------------------------------------------------------------------------

TransformerLayer::TransformerLayer(const TransformerLayerConfig& config) : config_(config) {
  attention_ = register_module("attention", std::make_shared<TransformerAttention>(config));
  attention_norm_ = TransformerNorm(*this, "attention_norm", config.model_dim, config);
  if (config.cross) {
    cross_ = register_module("cross", std::make_shared<TransformerAttention>(config));
    cross_norm_ = TransformerNorm(*this, "cross_norm", config.model_dim, config);
  }
  ffn_ = register_module("feed_forward", std::make_shared<TransformerFfn>(config));
  ffn_norm_ = TransformerNorm(*this, "feed_forward_norm", config.model_dim, config);
}

void TransformerLayer::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  attention_->init_weights(derive_key(key, 0));
  ffn_->init_weights(derive_key(key, 1));
  attention_norm_.init_weights();
  ffn_norm_.init_weights();
  if (cross_ == nullptr) return;
  cross_->init_weights(derive_key(key, 2));
  cross_norm_.init_weights();
}

void TransformerLayer::set_precision(nn::Precision precision) {
  precision_ = precision;
  attention_->set_precision(precision);
  ffn_->set_precision(precision);
  if (cross_ != nullptr) cross_->set_precision(precision);
}

std::vector<nn::Linear*> TransformerLayer::linears() {
  std::vector<nn::Linear*> list = attention_->linears();
  const auto add = [&](const std::vector<nn::Linear*>& more) { list.insert(list.end(), more.begin(), more.end()); };
  if (cross_ != nullptr) add(cross_->linears());
  add(ffn_->linears());
  return list;
}

template <class Inner>
Tensor TransformerLayer::branch(const Tensor& x_BLD, const TransformerNorm& norm, const nn::Linear& output,
                                uint64_t dropout_key, uint64_t site, const Inner& inner) const {
  const Tensor y = inner(config_.prenorm ? norm(x_BLD, activation_type(x_BLD, precision_)) : x_BLD);
  // The residual stream runs through the addition of the product, where nothing is dropped from the branch.
  const bool drops = is_training() && config_.dropout > 0;
  const Tensor sum_BLD = drops ? x_BLD + drop(output(y, precision_), config_.dropout, dropout_key, site, true)
                               : output(y, precision_, x_BLD);
  return config_.prenorm ? sum_BLD : norm(sum_BLD);
}

Tensor TransformerLayer::forward(const Tensor& x_BLD, const ModelInput& input, const Memory& memory, Carry& carry,
                                 int64_t slot, uint64_t dropout_key) {
  Tensor y_BLD = branch(x_BLD, attention_norm_, attention_->output(), dropout_key, kAttentionOut,
                        [&](const Tensor& u) { return attention_->forward(u, input, carry, slot, dropout_key); });
  if (cross_ != nullptr)
    y_BLD = branch(y_BLD, cross_norm_, cross_->output(), dropout_key, kCrossOut,
                   [&](const Tensor& u) { return cross_->forward(u, memory, dropout_key); });
  return branch(y_BLD, ffn_norm_, ffn_->output(), dropout_key, kFfnOut,
                [&](const Tensor& u) { return ffn_->forward(u, dropout_key); });
}

// ---- positions ------------------------------------------------------------------------------------------------------

AddedPositions::AddedPositions(torch::nn::Module& module, const TransformerLayerConfig& config, int64_t max_positions)
    : position_(config.position) {
  if (position_ == "learned") table_ = register_at(module, "positions.weight", {max_positions, config.model_dim});
  if (position_ == "sinusoidal") frequency_D_ = nn::Constant(nn::sinusoid_frequencies(config.model_dim));
}

void AddedPositions::check_length(int64_t length) const {
  check(!table_.defined() || length <= table_.size(0),
        "[transformer] position {} is beyond the model's max_positions = {}", length - 1, table_.size(0));
}

Tensor AddedPositions::add_to(const Tensor& x_BLD, const Tensor& position_BL) const {
  const Tensor here_BL = position_BL.to(x_BLD.device());
  if (table_.defined()) return x_BLD + torch::embedding(table_, here_BL);
  const Tensor frequency_D = frequency_D_.on(x_BLD.device(), torch::kFloat64);
  return x_BLD + nn::sinusoids(here_BL, frequency_D).to(x_BLD.scalar_type());
}

void AddedPositions::init_weights(uint64_t key) {
  if (table_.defined()) nn::normal(table_, 0.02, key);
}

// ---- language model -------------------------------------------------------------------------------------------------

namespace {

class Transformer final : public LayerStack {
 public:
  explicit Transformer(const TransformerConfig& config)
      : LayerStack(config.vocab_size, config.layer.model_dim),
        config_(config),
        positions_(*this, config.layer, config.max_positions) {
    for (int64_t i = 0; i < config.num_layers; ++i) add_layer(std::make_shared<TransformerLayer>(config.layer));
    final_norm_ = TransformerNorm(*this, "output.final_norm", config.layer.model_dim, config.layer);
    add_output(config.outputs(), config.share_emb);
  }

  const ModelConfig& config() const override { return config_; }

  void init_weights(uint64_t seed) override {
    torch::NoGradGuard no_grad;
    LayerStack::init_weights(seed);
    final_norm_.init_weights();
    positions_.init_weights(derive_key(seed, 2 + depth()));
  }

  void check_state(int64_t slot, const State& state, int64_t tokens) const override {
    if (state.empty()) return;  // all is in caches
    const int64_t position =
        config_.layer.chunk_size > 0 && slot < depth() ? tokens % config_.layer.chunk_size : tokens;
    check(state.back().item<int64_t>() == position, "the position in slot {} is {}, of so many tokens it is {}", slot,
          state.back().item<int64_t>(), position);
  }

  void check_length(int64_t tokens) const override { positions_.check_length(tokens); }

  std::optional<int64_t> state_steps(int64_t slot, size_t tensor, int64_t tokens) const override {
    if (slot >= depth() || tensor > 1) return {};
    const int64_t open = config_.layer.chunk_size > 0 ? tokens % config_.layer.chunk_size : tokens;
    return config_.layer.window > 0 ? std::min(open, config_.layer.window - 1) : open;
  }

  ModelInfo info() const override {
    const TransformerLayerConfig& c = config_.layer;
    ModelInfo info;
    info.chunk_size = c.chunk_size, info.window = c.window;
    info.repeats_steps = c.has_caches();  // otherwise keys and values are part of the state, which grows
    info.parameters = nn::count_parameters(*this);
    const int64_t keys_and_values = 2 * c.kv_heads() * c.head_dim();
    const int64_t ffn = c.model_dim * c.ffn_hidden_dim * (c.activation == "swiglu" ? 3 : 2);
    info.matrix_parameters = config_.num_layers * (c.model_dim * (2 * c.model_dim + keys_and_values) + ffn) +
                             config_.outputs() * c.model_dim;
    info.flops = 2.0 * info.matrix_parameters;
    info.flops_per_key = 4.0 * config_.num_layers * c.model_dim;  // scores and weighted values
    info.state_bytes_fixed = 8 * (config_.num_layers + (positions_ ? 1 : 0));
    const int64_t a_token = config_.num_layers * 4 * keys_and_values;
    const int64_t most =
        c.chunk_size > 0 && c.window > 0 ? std::min(c.chunk_size, c.window) - 1 : std::max(c.chunk_size, c.window) - 1;
    info.state_bytes_full = info.state_bytes_fixed + std::max<int64_t>(most, 0) * a_token;
    info.state_bytes_a_token = most < 0 ? a_token : 0;
    if (c.has_caches()) info.cache = {config_.num_layers, c.chunk_size, c.kv_heads(), c.head_dim(), c.head_dim()};
    return info;
  }

 protected:
  Tensor embedded(const Tensor& rows_BLD, const ModelInput& input, Carry& carry) override {
    Tensor x_BLD = rows_BLD;
    if (positions_) {
      const int64_t slot = depth();
      const State before = carry.before(slot);
      const auto positions = ops::chunk_positions(x_BLD.size(0), x_BLD.size(1), /*chunk_size=*/0, input.starts_BL,
                                                  before.empty() ? Tensor() : before[0], x_BLD.device());
      if (carry.wants_after()) carry.after(slot, {positions.next_B});
      // Who gave caches has asked check_length(). Of others only a GPU may know; it is asked where it matters.
      if (config_.layer.position == "learned" && carry.caches(0) == nullptr &&
          (!before.empty() || x_BLD.size(1) > config_.max_positions))
        check_length(positions.position_BL.max().item<int64_t>() + 1);
      x_BLD = positions_.add_to(x_BLD, positions.position_BL);
    }
    return drop(x_BLD, config_.layer.dropout, dropout_key_, kTransformerInput, is_training());
  }

  Tensor final_norm(const Tensor& x_BLD, const ModelInput&, Carry&) override {
    const Tensor y_BLD = final_norm_(x_BLD);
    return config_.logit_scale == 1 ? y_BLD : y_BLD * config_.logit_scale;
  }

 private:
  TransformerConfig config_;
  AddedPositions positions_;
  TransformerNorm final_norm_;
};

}  // namespace

std::unique_ptr<Model> TransformerConfig::build() const {
  validate();
  return std::make_unique<Transformer>(*this);
}

// ---- stacks ---------------------------------------------------------------------------------------------------------

TransformerStack::TransformerStack(const TransformerLayerConfig& config, int64_t num_layers, bool final_norm,
                                   int64_t max_positions)
    : model_dim_(config.model_dim),
      longest_(config.position == "learned" ? max_positions : 0),
      dropout_(config.dropout),
      positions_(*this, config, max_positions),
      has_norm_(final_norm) {
  const auto list = register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < num_layers; ++i)
    layers_.push_back(list->register_module(std::to_string(i), std::make_shared<TransformerLayer>(config)));
  if (has_norm_) norm_ = TransformerNorm(*this, "norm", config.model_dim, config);
}

Tensor TransformerStack::forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t dropout_key) {
  return zero_padding(forward(zero_padding(x_BLD, padding_BL), padding_BL, Memory(), dropout_key), padding_BL);
}

Tensor TransformerStack::forward(const Tensor& x_BLD, const Tensor& padding_BL, const Memory& memory,
                                 uint64_t dropout_key) {
  NoCarry whole;
  Tensor y_BLD = x_BLD;
  if (positions_) {
    positions_.check_length(x_BLD.size(1));
    y_BLD = positions_.add_to(
        x_BLD, torch::arange(x_BLD.size(1), torch::TensorOptions(x_BLD.device()).dtype(torch::kInt64)).unsqueeze(0));
  }
  y_BLD = drop(y_BLD, dropout_, dropout_key, layers_.size(), is_training());
  for (size_t i = 0; i < layers_.size(); ++i)
    y_BLD = layers_[i]->forward(y_BLD, {{}, {}, padding_BL}, memory, whole, 0, derive_key(dropout_key, i));
  return has_norm_ ? norm_(y_BLD) : y_BLD;
}

void TransformerStack::init_weights(uint64_t seed) {
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < layers_.size(); ++i) layers_[i]->init_weights(derive_key(seed, i));
  positions_.init_weights(derive_key(seed, layers_.size()));
  norm_.init_weights();
}

void TransformerStack::set_precision(nn::Precision precision) {
  for (const auto& layer : layers_) layer->set_precision(precision);
}

std::unique_ptr<Encoder> TransformerConfig::build_encoder() const {
  validate();
  if (layer.position == "alibi")
    fail_usage("[model.position] alibi looks backwards: an encoder wants rotary, sinusoidal, learned or none");
  if (layer.window > 0)
    fail_usage("[model.window] an encoder sees its chunk or everything, got a window of {}", layer.window);
  TransformerLayerConfig both_directions = layer;
  both_directions.causal = false;
  return std::make_unique<TransformerStack>(both_directions, num_layers, /*final_norm=*/true, max_positions);
}

}  // namespace megalodon
