// Single operators.
#include <cmath>

#include "base/check.h"
#include "cases.h"
#include "nn/cema.h"
#include "ops/chunk_attention/chunk_attention.h"
#include "ops/linear_recurrence/linear_recurrence.h"
#include "ops/rotary/rotary.h"
#include "ops/row_norm/row_norm.h"
#include "ops/sequence_norm/sequence_norm.h"
#include "ops/timestep_norm/timestep_norm.h"

namespace megalodon::golden {
namespace {

constexpr double kDefaultRopeBase = 10000;  // "base": null

int64_t groups(const Json& config) {
  // null: every feature is normalized alone.
  return config.at(config.at("num_groups").is_null() ? "dim" : "num_groups").get<int64_t>();
}

double rope_base(const Json& config) {
  return config.at("base").is_null() ? kDefaultRopeBase : config.at("base").get<double>();
}

Tensor positions(int64_t batch, int64_t begin, int64_t length) {
  return torch::arange(begin, begin + length, torch::kInt64).unsqueeze(0).expand({batch, length}).to(target().device);
}

/// What precedes the first step: the given statistics, else the priors, else nothing.
ops::TimestepNormState first_state(Pass& pass, int64_t batch) {
  ops::TimestepNormState state;
  if (pass.source().has("in.prev_count")) {
    state = {pass.get("in.prev_count"), pass.leaf("in.prev_mean"), pass.leaf("in.prev_var")};
  } else if (pass.source().has("param.prior_count")) {
    const Tensor count = pass.get("param.prior_count");
    const Tensor mean = pass.leaf("param.prior_mean"), log_var = pass.leaf("param.prior_logv");
    // The priors of a fresh start are what an undefined state means, and the way our models start.
    if (count.item<int64_t>() == 0 && !mean.any().item<bool>() && !log_var.any().item<bool>()) return {};
    state = {count.expand({batch}).contiguous(), mean.expand({batch, -1}), log_var.exp().expand({batch, -1})};
  }
  return state;
}

}  // namespace

void run_timestep_norm(Pass& pass) {
  const Json& config = pass.source().config();
  const Tensor x_BLD = pass.leaf("in.x");
  ops::TimestepNormOptions options;
  options.groups = groups(config);
  options.eps = config.at("eps").get<double>();
  options.padding_mask_BL = pass.find("in.padding_mask");
  options.state = first_state(pass, x_BLD.size(0));
  const auto out = ops::timestep_norm(x_BLD, pass.find_leaf("param.weight"), pass.find_leaf("param.bias"), options);
  pass.output("y", out.y_BLD);
  pass.output("count", out.state.count_B);
  pass.output("mean", out.state.mean_BG);
  pass.output("var", out.state.var_BG);
  pass.finish();
}

void run_sequence_norm(Pass& pass) {
  const Json& config = pass.source().config();
  ops::SequenceNormOptions options;
  options.groups = groups(config);
  options.eps = config.at("eps").get<double>();
  options.padding_mask_BL = pass.find("in.padding_mask");
  const bool length_last = config.at("length_last").get<bool>();
  const auto turned = [&](const Tensor& t) { return length_last ? t.transpose(1, 2) : t; };
  const auto out = ops::sequence_norm(turned(pass.leaf("in.x")), pass.leaf("in.scale"), pass.leaf("in.bias"), options);
  pass.output("y", turned(out.y_BLD));
  pass.output("count", out.count_B);
  pass.output("mean", out.mean_BG);
  pass.output("rstd", out.rstd_BG);
  pass.finish();
}

void run_rms_norm(Pass& pass) {
  // Llama's weight is what is multiplied with.
  const bool is_whole = pass.source().json().value("family", "") == "transformer";
  const Tensor weight = pass.find_leaf("param.weight");
  pass.output("y", ops::rms_norm(pass.leaf("in.x"), is_whole ? weight - 1 : weight,
                                 pass.source().config().at("eps").get<double>()));
  pass.finish();
}

void run_layer_norm(Pass& pass) {
  pass.output("y", ops::layer_norm(pass.leaf("in.x"), pass.find_leaf("param.weight"), pass.find_leaf("param.bias"),
                                   pass.source().config().at("eps").get<double>()));
  pass.finish();
}

void run_cema(Pass& pass) {
  const Tensor x_BDL = pass.leaf("in.x");
  const auto cema = nn::cema_coefficients(pass.leaf("param.alpha"), pass.leaf("param.delta"), pass.leaf("param.theta"),
                                          pass.leaf("param.gamma"));
  const Tensor skip_D = pass.leaf("param.omega").squeeze(-1);
  pass.output("p", cema.p_DN);
  pass.output("q", torch::view_as_real(cema.q_DN));
  pass.output("gamma", torch::view_as_real(cema.c_DN / cema.p_DN));

  // The published state is p times ours.
  ops::RecurrenceOptions options;
  options.want_state = true;
  if (pass.source().has("in.hx")) options.h0_BDN = torch::view_as_complex(pass.leaf("in.hx")) / cema.p_DN;
  const auto out = ops::linear_recurrence(x_BDL.transpose(1, 2), cema.q_DN, cema.c_DN, skip_D, options);
  pass.output("y", out.y_BLD.transpose(1, 2));
  pass.output("h", torch::view_as_real(out.h_BDN * cema.p_DN));

  // The kernel is the response to an impulse, the bias that of the initial state alone.
  torch::NoGradGuard no_grad;
  const Tensor silence_BLD = torch::zeros_like(x_BDL.transpose(1, 2).contiguous()),
               no_skip_D = torch::zeros_like(skip_D);
  Tensor impulse_BLD = silence_BLD.slice(0, 0, 1).clone();
  impulse_BLD.select(1, 0).fill_(1);
  const auto kernel = ops::linear_recurrence(impulse_BLD, cema.q_DN, cema.c_DN, no_skip_D).y_BLD;
  pass.output("kernel", kernel[0].transpose(0, 1));
  if (options.h0_BDN.defined())
    pass.output("bias",
                ops::linear_recurrence(silence_BLD, cema.q_DN, cema.c_DN, no_skip_D, options).y_BLD.transpose(1, 2));
  torch::AutoGradMode grad(true);
  pass.finish();
}

void run_rotary(Pass& pass) {
  const Json& config = pass.source().config();
  const double base = rope_base(config);
  const Tensor q_BLHK = pass.leaf("in.q"), k_BLHK = pass.leaf("in.k");
  const Tensor position_BL = positions(q_BLHK.size(0), config.at("start").get<int64_t>(), q_BLHK.size(1));
  pass.output("q", ops::rotary(q_BLHK, position_BL, base));
  pass.output("k", ops::rotary(k_BLHK, position_BL, base));
  // The frequencies are float32 by definition: the float64 ones are met to float32 rounding, each relative to itself.
  const Tensor frequencies = ops::rotary_frequencies(q_BLHK.size(-1), base, target().device);
  if (!pass.is_double()) {
    pass.output("freqs", frequencies);
  } else if (pass.source().has("out64.freqs")) {
    const Tensor expected = pass.get("out64.freqs");
    pass.comparer().near("out64.freqs", frequencies / expected, torch::ones_like(expected), {0x1p-22});
  }
  pass.finish();
}

void run_attention(Pass& pass) {
  const Json& config = pass.source().config();
  const auto heads = config.at("heads").get<int64_t>(), chunk = config.at("chunk_size").get<int64_t>();
  const auto by_head = [&](const std::string& name) {
    const Tensor x = pass.leaf(name);
    return x.view({x.size(0), x.size(1), heads, -1});
  };
  const Tensor q_BLHK = by_head("in.q"), k_BLHK = by_head("in.k"), v_BLHV = by_head("in.v");
  const int64_t batch = q_BLHK.size(0), length = q_BLHK.size(1);

  ops::ChunkAttentionOptions options;
  options.chunk_size = chunk;
  options.prior_k_BTHK = pass.find("in.cache_k");
  options.prior_v_BTHV = pass.find("in.cache_v");
  const int64_t cached = pass.source().has("in.cache_count") ? pass.get("in.cache_count").item<int64_t>() : 0;
  options.position_B = torch::full({batch}, cached, q_BLHK.options().dtype(torch::kInt64).requires_grad(false));
  const auto at = ops::chunk_positions(batch, length, chunk, {}, options.position_B, target().device);
  const Tensor rotated_BLHK = ops::rotary(k_BLHK, at.position_BL, rope_base(config));
  const Tensor y_BLHV =
      ops::chunk_attention(ops::rotary(q_BLHK, at.position_BL, rope_base(config)), rotated_BLHK, v_BLHV, options);
  pass.output("y", y_BLHV.reshape({batch, length, -1}));

  // What a stream keeps: the last `open` of all keys and values, those of the unfinished chunk.
  const int64_t open = at.next_B[0].item<int64_t>();
  const auto kept = [&](const Tensor& prior, const Tensor& fresh) {
    const Tensor all = prior.defined() ? torch::cat({prior, fresh}, 1) : fresh;
    return all.narrow(1, all.size(1) - open, open);
  };
  pass.output("cache_k", kept(options.prior_k_BTHK, rotated_BLHK));
  pass.output("cache_v", kept(options.prior_v_BTHV, v_BLHV));
  pass.output("cache_count", at.next_B[0]);
  pass.finish();
}

}  // namespace megalodon::golden
