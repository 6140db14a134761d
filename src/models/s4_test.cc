#include "models/s4.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "models/architecture_testing.h"

namespace megalodon {
namespace {

using testing::Architecture;

/// What the presets leave off.
std::vector<Preset> s4_variants() {
  S4Config shared;
  shared.num_layers = 2, shared.model_dim = 8, shared.state_dim = 6, shared.vocab_size = 19, shared.kernel_length = 16;
  shared.discretization = "bilinear", shared.init = "inv", shared.channels = 2, shared.num_matrices = 2;
  S4Config s4 = shared;
  s4.kernel = "s4", s4.init = "legs", s4.prenorm = false;
  return {{"s4d_shared", "", shared.clone()}, {"s4_shared", "", s4.clone()}};
}

INSTANTIATE_TEST_SUITE_P(S4, Architecture, ::testing::ValuesIn(s4_variants()), testing::name_of_preset);

TEST(S4, ParametersAreCounted) {
  // A layer: norm 64, D 32, step sizes 32, A 2 x 256, B 512, C 512, output 32 x 64 + 64; two vocabularies of 256 x 32,
  // a norm.
  const int64_t layer = 64 + 32 + 32 + 2 * 256 + 512 + 512 + 32 * 64 + 64;
  EXPECT_EQ(make_preset("s4d-tiny")->build()->info().parameters, 2 * layer + 2 * 256 * 32 + 64);
  EXPECT_EQ(make_preset("s4-tiny")->build()->info().parameters,
            2 * (layer + 512) + 256 * 32 + 64);  // P; one vocabulary
}

/// A causal convolution's first output depends on the first input alone.
TEST(S4Convolution, OnlyTheBidirectionalOneSeesWhatIsToCome) {
  torch::NoGradGuard no_grad;
  for (const bool bidirectional : {false, true}) {
    S4LayerConfig config;
    config.features = 8, config.state_dim = 4, config.matrices = 1, config.rank = 1, config.use.attuned_length = 16;
    config.bidirectional = bidirectional, config.init.matrix = "legs";
    S4Convolution convolution(config);
    convolution.init_weights(3);
    const Tensor x = torch::randn({1, 9, 8});
    Tensor other = x.clone();
    other.select(1, 8).add_(1);
    NoCarry none;
    const Tensor difference = convolution.forward(x, {}, none, 0) - convolution.forward(other, {}, none, 0);
    EXPECT_EQ(difference.select(1, 0).abs().max().item<float>() > 1e-4, bidirectional);
    StreamCarry stream;
    if (bidirectional) {
      EXPECT_THROW(convolution.forward(x, {}, stream, 0), Error);
    }
  }
}

TEST(S4Config, ContradictionsAreNamed) {
  const auto refuses = [](const std::string& part, const std::function<void(S4Config&)>& change) {
    S4Config config;
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "accepted a bad " << part;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuses("model.state_dim", [](auto& c) { c.state_dim = 7; });
  refuses("model.num_matrices", [](auto& c) { c.num_matrices = 3; });
  refuses("model.kernel", [](auto& c) { c.kernel = "s5"; });
  refuses("model.discretization", [](auto& c) { c.discretization = "euler"; });
  refuses("model.init", [](auto& c) { c.init = "legt"; });
  refuses("model.init", [](auto& c) { c.kernel = "s4", c.discretization = "bilinear"; });
  refuses("model.discretization", [](auto& c) { c.kernel = "s4", c.init = "legs"; });
  refuses("model.kernel_length", [](auto& c) { c.kernel_length = 0; });
  refuses("model.dt_min", [](auto& c) { c.dt_min = 1; });
  refuses("model.dropout", [](auto& c) { c.dropout = 1; });
  refuses("model.norm_eps", [](auto& c) { c.norm_eps = 0; });
  refuses("model.vocab_size", [](auto& c) { c.vocab_size = 0; });
  refuses("model.output_size", [](auto& c) { c.output_size = -3; });
  refuses("model.share_emb", [](auto& c) { c.share_emb = true, c.output_size = 5; });
}

}  // namespace
}  // namespace megalodon
