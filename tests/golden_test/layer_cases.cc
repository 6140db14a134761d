// One layer: the attention layer and the feed-forward block, alone.
#include "layer_cases.h"

#include "base/check.h"
#include "cases.h"

namespace megalodon::golden {
namespace {

/// Fills a module's parameters from the case and makes them leaves of the pass.
void load_parameters(Pass& pass, torch::nn::Module& module) {
  module.to(target().device, pass.dtype());
  std::vector<std::pair<std::string, Tensor>> parameters;
  torch::NoGradGuard no_grad;
  for (const auto& item : module.named_parameters()) {
    item.value().copy_(pass.get("param." + item.key()));
    parameters.emplace_back(item.key(), item.value());
  }
  pass.leaves(parameters);
}

/// Our norms start afresh at count 0, where the prior mean and variance do not matter; a layer with another prior count
/// cannot be represented and must not be compared.
void check_prior(const Pass& pass) {
  const char* name = "param.timenorm.prior_count";
  check(!pass.source().has(name) || !pass.get(name).any().item<bool>(), "[golden] {} must be zero", name);
}

}  // namespace

MegalodonLayerState read_cache(const Pass& pass, const std::string& prefix, const Tensor& alpha_DN1) {
  MegalodonLayerState state;
  state.norm_count_B = pass.get(prefix + "norm.count");
  state.norm_mean_BG = pass.get(prefix + "norm.mean").to(torch::kFloat64);
  state.norm_var_BG = pass.get(prefix + "norm.var").to(torch::kFloat64);
  state.cema_BDN = torch::view_as_complex(pass.get(prefix + "hx")) / torch::sigmoid(alpha_DN1.squeeze(-1));
  state.k_BTHK = pass.get(prefix + "attn.k");
  state.v_BTHV = pass.get(prefix + "attn.v");
  state.position_B = pass.get(prefix + "attn.count").expand({state.k_BTHK.size(0)}).contiguous();
  return state;
}

void compare_cache(Pass& pass, const std::string& prefix, const MegalodonLayerState& state, const Tensor& alpha_DN1) {
  pass.output(prefix + "norm.count", state.norm_count_B);
  pass.output(prefix + "norm.mean", state.norm_mean_BG);
  pass.output(prefix + "norm.var", state.norm_var_BG);
  pass.output(prefix + "hx",
              torch::view_as_real((state.cema_BDN * torch::sigmoid(alpha_DN1.squeeze(-1))).resolve_conj()));
  pass.output(prefix + "attn.k", state.k_BTHK);
  pass.output(prefix + "attn.v", state.v_BTHV);
  // The cases have one count for all rows.
  pass.comparer().equal(prefix + "attn.count (all rows)", state.position_B,
                        state.position_B.select(0, 0).expand_as(state.position_B));
  pass.output(prefix + "attn.count", state.position_B.select(0, 0));
}

void run_mega_attention(Pass& pass) {
  check_prior(pass);
  MegaAttention layer(read_config(pass.source().config(), "case"));
  load_parameters(pass, layer);
  const Tensor alpha_DN1 = layer.named_parameters()["cema.alpha"];
  StreamCarry stream;
  NoCarry nothing;
  const bool cached = pass.source().has_prefix("in.cache.");
  // Put in place, not handed to after(), which detaches: our state is the published one divided by p(alpha), so part of
  // alpha's gradient comes through it.
  if (cached) stream.slots() = {read_cache(pass, "in.cache.", alpha_DN1).pack()};
  Carry& carry = cached ? static_cast<Carry&>(stream) : nothing;
  pass.output("y", layer.forward(pass.leaf("in.x"), ModelInput(), carry, 0, 0));
  if (cached) compare_cache(pass, "cache.", MegalodonLayerState::unpack(stream.slots().at(0)), alpha_DN1);
  pass.finish();
}

void run_ffn(Pass& pass) {
  const Json& config = pass.source().config();
  MegalodonConfig model = read_config(config, "case");
  model.rescale_nffn = !config.at("rescale_init").is_null();
  NormalizedFfn layer(model, 0);
  load_parameters(pass, layer);
  pass.output("y", layer.forward(pass.leaf("in.x"), pass.leaf("in.residual"), 0));
  pass.finish();
}

}  // namespace megalodon::golden
