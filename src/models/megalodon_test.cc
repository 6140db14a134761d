#include "models/megalodon.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "models/architecture_testing.h"
#include "models/testing.h"
#include "nn/cema.h"

namespace megalodon {
namespace {

using testing::Architecture;
using testing::gradients_of;
using testing::mean_loss;
using testing::noisy_model;
using testing::tiny_config;

/// Every switch that changes the function, and none.
std::vector<Preset> megalodon_variants() {
  MegalodonConfig plain = tiny_config();
  plain.swiglu = plain.rescale_nffn = plain.scale_emb = plain.norm_affine = false, plain.num_heads = 1;
  return {{"all_switches", "", tiny_config().clone()}, {"no_switches", "", plain.clone()}};
}

INSTANTIATE_TEST_SUITE_P(Megalodon, Architecture, ::testing::ValuesIn(megalodon_variants()), testing::name_of_preset);

TEST(Megalodon, PublishedParameterCounts) {
  const std::map<std::string, int64_t> expected = {
      {"megalodon-tiny", 34720},     {"byte11m", 11359104},      {"mega200M", 220627968},  {"mega1.3B", 1342832640},
      {"mega1.3B_pg19", 1327628288}, {"mega7.1B", 7117381632},   {"mega7.3B", 7385817088}, {"paper7B", 7385817088},
      {"megalodon-11M", 11229696},   {"megalodon-45M", 45665472}};
  const auto of_megalodon = [](const Preset& preset) { return preset.config->architecture() == "megalodon"; };
  ASSERT_EQ(std::count_if(presets().begin(), presets().end(), of_megalodon), static_cast<int64_t>(expected.size()));
  for (const auto& [name, parameters] : expected)
    EXPECT_EQ(make_preset(name)->build()->info().parameters, parameters) << name;
  EXPECT_EQ(preset_names().size(), presets().size());
  EXPECT_THROW(make_preset("mega8B"), UsageError);
}

/// 1, 2, 3, 3, 3 keys in a window of three; a chunk of two leaves it 1, 2, 1, 2, 1.
TEST(ModelInfo, CountsTheKeysOfAWindow) {
  ModelInfo info;
  info.window = 3, info.flops_per_key = 10;
  EXPECT_DOUBLE_EQ(info.mean_forward_flops(5), 10 * 12 / 5.0);
  info.chunk_size = 2;
  EXPECT_DOUBLE_EQ(info.mean_forward_flops(5), 10 * 7 / 5.0);
}

/// A token sees 1, 2, … chunk_size keys, again and again.
TEST(ModelInfo, CountsTheKeysThatAreSeen) {
  ModelInfo info;
  info.chunk_size = 4, info.flops = 100, info.flops_per_key = 10;
  EXPECT_EQ(info.mean_forward_flops(1), 110);
  EXPECT_EQ(info.mean_forward_flops(4), 125);
  EXPECT_EQ(info.mean_forward_flops(8), 125);
  EXPECT_EQ(info.mean_forward_flops(6), 100 + 10 * (10 + 3) / 6.0);
  EXPECT_EQ(info.mean_forward_flops(0), 0);
  info.chunk_size = 0;
  EXPECT_EQ(info.mean_forward_flops(5), 130);
}

/// Of each parameter by itself.
TEST(Megalodon, Bfloat16GradientsPointWhereFloat64GradientsPoint) {
  const auto exact = noisy_model(tiny_config()), model = noisy_model(tiny_config());
  exact->to(torch::kFloat64);
  model->set_precision(nn::Precision::kBfloat16);
  const auto names = model->named_parameters().keys();
  for (const int64_t length : {1, 7, 8, 9, 24}) {  // around chunks
    const auto expected = gradients_of(mean_loss(*exact, length), *exact);
    const auto got = gradients_of(mean_loss(*model, length), *model);
    double largest = 0;
    for (const Tensor& gradient : expected) largest = std::max(largest, gradient.abs().max().item<double>());
    for (size_t i = 0; i < names.size(); ++i)
      EXPECT_LE(
          (got[i] - expected[i]).norm().item<double>(),
          0.05 * expected[i].norm().item<double>() + 2e-3 * largest * std::sqrt(static_cast<double>(got[i].numel())))
          << names[i] << ", length " << length;
  }
}

/// Rounded to the compute dtype they would stop moving after some 10^7 steps.
TEST(Megalodon, AStreamsStatisticsAreFloat64) {
  StreamCarry carry;
  noisy_model(tiny_config())->hidden({testing::random_tokens(tiny_config(), 1, 5), {}}, carry);
  for (const State& state : carry.slots())
    for (const size_t moment : {1, 2}) EXPECT_EQ(state[moment].scalar_type(), torch::kFloat64);
}

TEST(Cema, SaturatedDecayHasNoNan) {
  const auto options = torch::TensorOptions().requires_grad(true);
  for (const double logit : {-100.0, -20.0, 0.0, 20.0, 100.0}) {
    const Tensor alpha = torch::full({3, 2, 1}, logit, options), delta = torch::full({3, 2, 1}, logit, options);
    const Tensor theta = torch::full({3, 1, 1}, 0.3, options), gamma = torch::ones({3, 2, 2}, options);
    const auto cema = nn::cema_coefficients(alpha, delta, theta, gamma);
    EXPECT_TRUE(torch::view_as_real(cema.q_DN).isfinite().all().item<bool>()) << logit;
    EXPECT_LE(cema.q_DN.abs().max().item<double>(), 1.0);
    (torch::view_as_real(cema.q_DN).sum() + torch::view_as_real(cema.c_DN).sum()).backward();
    for (const Tensor& x : {alpha, delta, theta, gamma}) EXPECT_TRUE(x.grad().isfinite().all().item<bool>()) << logit;
  }
}

TEST(MegalodonConfig, ContradictionsAreNamed) {
  const auto refuses = [](const std::string& part, const std::function<void(MegalodonConfig&)>& change) {
    auto config = tiny_config();
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "accepted a bad " << part;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuses("z_dim", [](auto& c) { c.z_dim = 9; });
  refuses("z_dim", [](auto& c) { c.z_dim = 6; });  // 3 a head: odd
  refuses("value_dim", [](auto& c) { c.value_dim = 25; });
  refuses("norm_num_groups", [](auto& c) { c.norm_num_groups = 3; });
  refuses("chunk_size", [](auto& c) { c.chunk_size = -1; });
  refuses("num_layers", [](auto& c) { c.num_layers = -1; });
  refuses("model_dim", [](auto& c) { c.model_dim = int64_t{1} << 32; });
  refuses("vocab_size", [](auto& c) { c.vocab_size = INT64_MAX; });
  refuses("output_size", [](auto& c) { c.output_size = INT64_MAX; });
  refuses("dropout", [](auto& c) { c.dropout = 1; });
  refuses("norm_eps", [](auto& c) { c.norm_eps = 0; });
  refuses("init_mode", [](auto& c) { c.init_mode = "hee"; });
  refuses("share_emb", [](auto& c) { c.share_emb = true, c.output_size = 5; });
}

}  // namespace
}  // namespace megalodon
