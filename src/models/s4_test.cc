#include "models/s4.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "models/testing.h"
#include "models/weights.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::between_neighbours;
using testing::close;
using testing::in_calls;
using testing::noisy_model;
using testing::one_pass;
using testing::random_split;
using testing::random_tokens;
using testing::results_of_stretches;

/// Two layers each: both kernels, every switch that changes the function.
std::vector<S4Config> tiny_s4_configs() {
  S4Config s4d;
  s4d.num_layers = 2, s4d.model_dim = 8, s4d.state_dim = 6, s4d.vocab_size = 19, s4d.kernel_length = 16;
  S4Config shared = s4d;
  shared.discretization = "bilinear", shared.init = "inv", shared.channels = 2, shared.num_matrices = 2;
  S4Config s4 = s4d;
  s4.kernel = "s4", s4.init = "legs", s4.discretization = "bilinear", s4.share_emb = true;
  return {s4d, shared, s4};
}

TEST(S4, ParametersAndStateAreCounted) {
  const auto configs = tiny_s4_configs();
  // A layer: norm 16, D 8, step sizes 8, A 2 x 24, B 48, C 48, output 16 x 8 + 16; two vocabularies of 19 x 8, a norm.
  const int64_t layer = 16 + 8 + 8 + 2 * 24 + 48 + 48 + 16 * 8 + 16;
  EXPECT_EQ(configs[0].build()->info().parameters, 2 * layer + 2 * 19 * 8 + 16);
  EXPECT_EQ(configs[2].build()->info().parameters, 2 * (layer + 48) + 19 * 8 + 16);  // P; one vocabulary
  torch::NoGradGuard no_grad;
  for (const S4Config& config : configs) {
    const auto model = noisy_model(config);
    StreamCarry carry;
    for (int i = 0; i < 3; ++i) model->hidden({random_tokens(config, 1, 40), {}}, carry);
    EXPECT_EQ(carry.bytes(), model->info().state_bytes_full);
  }
}

TEST(S4, RandomSplitsEqualOnePassWithAndWithoutDocuments) {
  torch::NoGradGuard no_grad;
  for (const S4Config& config : tiny_s4_configs()) {
    const auto model = noisy_model(config);
    const Tensor tokens = random_tokens(config, 3, 37);
    Tensor starts = torch::zeros({3, 37}, torch::kBool);
    starts[0][5] = true, starts[0][6] = true, starts[1][20] = true, starts[2][0] = true, starts[2][36] = true;
    std::mt19937_64 rng(3);
    for (const Tensor& documents : {Tensor(), starts}) {
      const Tensor expected = one_pass(*model, {tokens, documents});
      for (int i = 0; i < 100; ++i) {
        StreamCarry carry;
        const auto calls = random_split(37, rng);
        ASSERT_TRUE(close(in_calls(*model, {tokens, documents}, calls, carry), expected, 1e-5))
            << config.kernel << " " << ::testing::PrintToString(calls);
      }
    }
  }
}

/// In training a stretch is convolved and the past added; streams for inference step.
TEST(S4, StatefulTrainingComputesWhatStreamsDo) {
  for (const S4Config& config : tiny_s4_configs()) {
    const auto model = noisy_model(config);
    const Tensor tokens = random_tokens(config, 2, 30);
    Tensor starts = torch::zeros({2, 30}, torch::kBool);
    starts[0][13] = true, starts[1][10] = true;
    const Tensor expected = one_pass(*model, {tokens, starts});
    model->train();
    StreamCarry carry;
    const Tensor logits = in_calls(*model, {tokens, starts}, {10, 15, 5}, carry);
    EXPECT_TRUE(close(logits, expected, 1e-5)) << config.kernel;
    EXPECT_TRUE(logits.requires_grad());
    model->eval();
    torch::NoGradGuard no_grad;
    StreamCarry stepped;
    in_calls(*model, {tokens, starts}, {10, 15, 5}, stepped);
    for (size_t slot = 0; slot < 2; ++slot)
      EXPECT_TRUE(close(carry.slots()[slot][0], stepped.slots()[slot][0], 1e-5)) << config.kernel;
  }
}

TEST(S4, ADocumentNeverSeesItsNeighbours) {
  for (const S4Config& config : tiny_s4_configs()) {
    const auto model = noisy_model(config);
    for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{1, 2}, {7, 19}, {16, 25}}) {
      const auto a = between_neighbours(*model, config, begin, end, 25, 100);
      const auto b = between_neighbours(*model, config, begin, end, 25, 200);
      for (size_t i = 0; i < a.size(); ++i)
        EXPECT_TRUE(torch::equal(a[i], b[i])) << config.kernel << " " << begin << " " << i;
      const Tensor alone = one_pass(*model, {random_tokens(config, 1, 25).slice(1, begin, end), {}});
      EXPECT_TRUE(close(a[0], alone, 1e-5)) << config.kernel;
    }
  }
}

TEST(S4, GradientsMatchFiniteDifferences) {
  for (S4Config config : tiny_s4_configs()) {
    config.num_layers = 1, config.model_dim = 4, config.state_dim = 4, config.vocab_size = 5, config.kernel_length = 6;
    for (const int64_t length : {1, 6, 13}) {  // shorter than the kernel's length, equal, doubled twice
      const auto model = noisy_model(config);
      model->to(torch::kFloat64);
      const Tensor tokens = random_tokens(config, 1, length), targets = random_tokens(config, 1, length, 8);
      const auto loss = [&] {
        NoCarry none;
        return model->nll({tokens, {}}, targets, none).mean();
      };
      loss().backward();
      torch::NoGradGuard no_grad;
      const double step = 1e-6;
      for (const auto& [name, parameter] : model->named_parameters().pairs()) {
        Tensor flat = parameter.view({-1});
        const Tensor gradient = parameter.grad().view({-1});
        for (int64_t i = 0; i < flat.numel(); i += std::max<int64_t>(1, flat.numel() / 7)) {
          const double x = flat[i].item<double>();
          flat[i] = x + step;
          const double above = loss().item<double>();
          flat[i] = x - step;
          const double below = loss().item<double>();
          flat[i] = x;
          EXPECT_NEAR(gradient[i].item<double>(), (above - below) / (2 * step), 1e-7)
              << name << " " << i << " " << length;
        }
      }
    }
  }
}

TEST(S4, EveryParameterIsTrainedAndInitIsAFunctionOfTheSeed) {
  for (const S4Config& config : tiny_s4_configs()) {
    const auto a = config.build(), b = config.build(), c = config.build();
    a->init_weights(5), b->init_weights(5), c->init_weights(6);
    NoCarry none;
    a->nll({random_tokens(config, 2, 20), {}}, random_tokens(config, 2, 20, 9), none).mean().backward();
    bool differs = false;
    for (const auto& [name, parameter] : a->named_parameters().pairs()) {
      EXPECT_TRUE(torch::equal(parameter, b->named_parameters()[name])) << name;
      EXPECT_TRUE(parameter.isfinite().all().item<bool>()) << name;
      EXPECT_TRUE(parameter.grad().defined() && parameter.grad().isfinite().all().item<bool>()) << name;
      EXPECT_GT(parameter.grad().abs().max().item<double>(), 0) << name;
      differs |= !torch::equal(parameter, c->named_parameters()[name]);
    }
    EXPECT_TRUE(differs);
  }
}

TEST(S4, CheckpointingChangesNothingAndKeepsTheCarry) {
  for (S4Config config : tiny_s4_configs()) {
    config.dropout = 0.2;
    const auto model = noisy_model(config);
    model->train();
    std::vector<Tensor> results[2];
    for (const bool on : {false, true}) {
      model->set_checkpointing(on);
      results[on] = results_of_stretches(*model, 26);
    }
    ASSERT_EQ(results[0].size(), results[1].size());
    for (size_t i = 0; i < results[0].size(); ++i)
      EXPECT_TRUE(torch::equal(results[0][i], results[1][i])) << config.kernel << " " << i;
  }
}

TEST(S4, WrittenWeightsAreNoticedBetweenSteps) {
  torch::NoGradGuard no_grad;
  for (const S4Config& config : tiny_s4_configs()) {
    const auto model = noisy_model(config), fresh = noisy_model(config, 2);
    const Tensor tokens = random_tokens(config, 1, 3);
    StreamCarry before, after, expected;
    model->logits({tokens, {}}, before);
    for (const auto& [name, weight] : named_weights(*fresh)) model->named_parameters()[name].copy_(weight);
    EXPECT_TRUE(torch::equal(model->logits({tokens, {}}, after), fresh->logits({tokens, {}}, expected)));
  }
}

S4ClassifierConfig tiny_classifier(bool bidirectional, int64_t rank) {
  S4ClassifierConfig config;
  config.layer.features = 8, config.layer.state_dim = 4, config.layer.matrices = 1, config.layer.rank = rank;
  config.layer.bidirectional = bidirectional, config.layer.use.attuned_length = 16;
  config.num_layers = 2, config.inputs = 3, config.classes = 4;
  return config;
}

TEST(S4Classifier, EveryParameterIsTrained) {
  for (const bool bidirectional : {false, true})
    for (const int64_t rank : {0, 1}) {
      S4Classifier model(tiny_classifier(bidirectional, rank));
      model.init_weights({rank > 0 ? "legs" : "inv"}, 3);
      torch::manual_seed(1);
      const Tensor logits = model.forward(torch::randn({2, 11, 3}));
      EXPECT_EQ(logits.sizes(), (std::vector<int64_t>{2, 4}));
      torch::cross_entropy_loss(logits, torch::tensor({1, 3})).backward();
      for (const auto& item : model.named_parameters())
        EXPECT_GT(item.value().grad().abs().max().item<double>(), 0) << item.key();
    }
}

/// A causal convolution's first output depends on the first input alone.
TEST(S4Convolution, OnlyTheBidirectionalOneSeesWhatIsToCome) {
  torch::NoGradGuard no_grad;
  for (const bool bidirectional : {false, true}) {
    S4Convolution convolution(tiny_classifier(bidirectional, 1).layer);
    convolution.init_weights({"legs"}, 3);
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
    auto config = tiny_s4_configs()[0];
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
