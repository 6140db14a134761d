#include "models/model.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "base/check.h"
#include "models/encoder.h"
#include "models/to_device.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace megalodon {

#define MEGALODON_MODEL(name)                          \
  std::unique_ptr<ModelConfig> make_##name##_config(); \
  std::vector<Preset> name##_presets();
#include "models/models.def"
#undef MEGALODON_MODEL

namespace {

struct Architecture {
  std::string name;
  std::unique_ptr<ModelConfig> (*make)();
};

const std::vector<Architecture>& registry() {
  static const std::vector<Architecture> entries = {
#define MEGALODON_MODEL(name) {#name, &make_##name##_config},
#include "models/models.def"
#undef MEGALODON_MODEL
  };
  return entries;
}

}  // namespace

std::unique_ptr<Encoder> ModelConfig::build_encoder() const {
  fail_usage("[model.arch] {} reads from left to right only and makes no encoder", architecture());
}

double ModelInfo::mean_forward_flops(int64_t length) const {
  if (length == 0) return 0;
  const auto keys_of_all = [&](int64_t tokens) {  // each sees itself and those before it, as far as the window reaches
    const int64_t growing = window > 0 ? std::min(tokens, window) : tokens;
    return static_cast<double>(growing) *
           (static_cast<double>(growing + 1) / 2 + static_cast<double>(tokens - growing));
  };
  const int64_t chunk = chunk_size > 0 ? chunk_size : length, whole = length / chunk;
  const double keys = static_cast<double>(whole) * keys_of_all(chunk) + keys_of_all(length % chunk);
  return flops + flops_per_key * keys / static_cast<double>(length);
}

ModelInput Model::here(const ModelInput& input) const {
  return {to_device(input.tokens_BL, device()), to_device(input.starts_BL, device()),
          to_device(input.padding_BL, device())};
}

Tensor Model::logits(const ModelInput& input, Carry& carry) {
  const Tensor logits_BLV = logits_of(hidden(input, carry));
  return logits_BLV.scalar_type() == torch::kFloat64 ? logits_BLV : logits_BLV.to(torch::kFloat32);
}

Tensor Model::logits_of(const Tensor& hidden, std::optional<nn::Precision> precision) const {
  return output()(hidden, precision.value_or(precision_));
}

Tensor Model::nll(const ModelInput& input, const Tensor& targets_BL, Carry& carry) {
  return nll_of(hidden(input, carry), to_device(targets_BL, device()));
}

Tensor Model::nll_of(const Tensor& hidden_BLD, const Tensor& targets_BL) const {
  return ops::linear_cross_entropy(hidden_BLD, output().weight, targets_BL, precision_, output().packed);
}

void Model::fix(ops::FixedType type) {
  const torch::NoGradGuard no_grad;
  eval();
  const torch::Device where = device();
  for (nn::Linear* linear : linears())
    linear->fix(ops::fix_matrix(linear->weight.detach().to(torch::kCPU, torch::kFloat32), type).to(where));
}

void Model::check_state(int64_t /*slot*/, const State& /*state*/, int64_t /*tokens*/) const {}

void Model::check_length(int64_t /*tokens*/) const {}

std::optional<int64_t> Model::state_steps(int64_t /*slot*/, size_t /*tensor*/, int64_t /*tokens*/) const {
  return {};
}

void Model::replace_norm_statistics(StreamCarry&, const StreamCarry&) const {
  fail("[{}] has no timestep norms whose statistics could be replaced", config().architecture());
}

std::vector<std::string> architectures() {
  std::vector<std::string> names;
  for (const Architecture& entry : registry()) names.push_back(entry.name);
  return names;
}

std::unique_ptr<ModelConfig> make_config(const std::string& architecture) {
  for (const Architecture& entry : registry())
    if (entry.name == architecture) return entry.make();
  fail_usage("[model.arch] unknown architecture \"{}\"; known: {}", architecture, fmt::join(architectures(), ", "));
}

const std::vector<Preset>& presets() {
  static const std::vector<Preset> all = [] {
    std::vector<Preset> list;
#define MEGALODON_MODEL(name) \
  for (Preset & preset : name##_presets()) list.push_back(std::move(preset));
#include "models/models.def"
#undef MEGALODON_MODEL
    return list;
  }();
  return all;
}

std::vector<std::string> preset_names() {
  std::vector<std::string> names;
  for (const Preset& preset : presets()) names.push_back(preset.name);
  return names;
}

std::unique_ptr<ModelConfig> make_preset(const std::string& name) {
  for (const Preset& preset : presets())
    if (preset.name == name) return preset.config->clone();
  fail_usage("[model.preset] unknown preset \"{}\"; known: {}", name, fmt::join(preset_names(), ", "));
}

}  // namespace megalodon
