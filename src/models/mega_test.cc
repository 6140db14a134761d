// What is special to Mega; what all architectures share is in architecture_test.cc.
#include "models/mega.h"

#include <gtest/gtest.h>

#include "models/testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;
using testing::in_calls;
using testing::noisy_model;
using testing::one_pass;
using testing::random_split;
using testing::random_tokens;

std::unique_ptr<MegaConfig> tiny_mega(const std::string& preset) {
  auto config = make_preset(preset);
  return std::unique_ptr<MegaConfig>(dynamic_cast<MegaConfig*>(config.release()));
}

/// The published counts, with the published vocabularies: 204 symbols of enwik8 and 4 more, 267,744 words.
TEST(Mega, PublishedModelsHaveTheirSizes) {
  const auto enwik8 = tiny_mega("mega_chunk-enwik8");
  enwik8->vocab_size = 208;
  EXPECT_EQ(enwik8->build()->info().parameters, 39137792);
  EXPECT_EQ(tiny_mega("mega_chunk-wikitext103")->build()->info().parameters, 252237824);
}

/// The average's window reaches over the borders of calls and is forgotten at those of documents.
TEST(Mega, TruncatedStreamsEqualOnePass) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_mega("mega_chunk-tiny");
  config->layer.truncation = 6, config->layer.attention = "relu2", config->layer.position = "simple";
  config->layer.prenorm = false, config->norm_emb = true;
  const auto model = noisy_model(*config);
  const Tensor tokens = random_tokens(*config, 2, 33);
  Tensor starts = torch::zeros({2, 33}, torch::kBool);
  starts[0][4] = true, starts[0][9] = true, starts[1][20] = true;
  std::mt19937_64 rng(5);
  for (const Tensor& documents : {Tensor(), starts}) {
    const Tensor expected = one_pass(*model, {tokens, documents});
    for (int i = 0; i < 50; ++i) {
      StreamCarry carry;
      const auto calls = random_split(33, rng);
      ASSERT_TRUE(close(in_calls(*model, {tokens, documents}, calls, carry), expected, 1e-5))
          << ::testing::PrintToString(calls);
      EXPECT_EQ(carry.slots()[0][2].size(1), 6);
    }
  }
}

/// Kernels with the bias in queries and keys, and the composition.
TEST(Mega, BothWaysOfAttendingAreOneFunction) {
  torch::NoGradGuard no_grad;
  for (const int64_t chunk : {0, 8})
    for (const bool bidirectional : {false, true})
      for (const bool padded : {false, true}) {
        MegaLayerConfig config = tiny_mega("mega_chunk-tiny")->layer;
        config.chunk_size = chunk, config.bidirectional = bidirectional;
        GatedAttention layer(config);
        torch::manual_seed(2);
        for (Tensor& parameter : layer.parameters()) parameter.normal_();
        const Tensor z_BLZ = torch::randn({2, 32, config.z_dim}), v_BLE = torch::randn({2, 32, config.value_dim});
        Tensor padding = torch::zeros({2, 32}, torch::kBool);
        padding[1].slice(0, 29) = true;
        const ModelInput input = {{}, {}, padded ? padding : Tensor()};
        const Tensor got = layer.attend(z_BLZ, v_BLE, input, nullptr, {}, nullptr, 0);

        const auto parameter = [&](const char* name) { return layer.named_parameters()[name]; };
        RelativeBias bias(config.position, 32, config.z_dim);
        for (const char* name : {"alpha", "beta"})
          bias.named_parameters()[name].copy_(parameter((std::string("rel_pos_bias.") + name).c_str()));
        ops::RelativeAttentionOptions options;
        options.causal = !bidirectional, options.chunk_size = chunk, options.padding_BJ = input.padding_BL;
        options.bias_O = bias.table(32);
        const auto side = [&](int64_t i) { return z_BLZ * parameter("gamma")[i] + parameter("beta")[i]; };
        EXPECT_TRUE(close(got, ops::relative_attention(side(0), side(1), v_BLE, options), 1e-4, 1e-4))
            << chunk << " " << bidirectional << " " << padded;
      }
}

/// A table with the rotary bias in it takes the composition; padding fills chunks in part and whole.
TEST(Mega, EncodersAttendAlikeOnKernelAndComposition) {
  torch::NoGradGuard no_grad;
  MegaLayerConfig config;
  config.model_dim = 16, config.z_dim = 8, config.value_dim = 24, config.ema_ndim = 2, config.bidirectional = true;
  const Tensor x = torch::randn({2, 24, 16});
  Tensor padding = torch::zeros({2, 24}, torch::kBool);
  padding[0].slice(0, 13) = true, padding[1].slice(0, 0, 6) = true;
  for (const int64_t chunk : {0, 8}) {
    config.chunk_size = chunk, config.max_positions = 24, config.position = "rotary";
    GatedAttention rotary(config);
    rotary.init_weights(1);
    RelativeBias bias("rotary", 0, 8);
    config.position = "simple";
    GatedAttention simple(config);
    for (auto& item : rotary.named_parameters()) {
      item.value().add_(torch::randn_like(item.value()), 0.3);
      if (item.key().rfind("rel_pos_bias.", 0) == 0)
        bias.named_parameters()[item.key().substr(13)].copy_(item.value());
      else
        simple.named_parameters()[item.key()].copy_(item.value());
    }
    const int64_t reach = chunk > 0 ? chunk : 24;
    const Tensor table = bias.table(reach);
    simple.named_parameters()["rel_pos_bias.rel_pos_bias"].copy_(
        table.narrow(0, table.size(0) / 2 - (reach - 1), 2 * reach - 1));
    NoCarry whole;
    EXPECT_TRUE(close(rotary.forward(x, {{}, {}, padding}, whole, 0, 0),
                      simple.forward(x, {{}, {}, padding}, whole, 0, 0), 1e-5))
        << chunk;
  }
}

/// Steps that are none, in front of a sequence: averages begin at 0 behind them, keys are not seen, and biases go by
/// distance.
TEST(Mega, PaddingInFrontOfASequenceIsAsIfItWereNotThere) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_mega("mega-tiny");
  const auto model = noisy_model(*config);
  const Tensor tokens = random_tokens(*config, 1, 30);
  Tensor padding = torch::zeros({1, 30}, torch::kBool);
  padding.slice(1, 0, 11) = true;
  NoCarry none;
  const Tensor padded = model->logits({tokens, {}, padding}, none).slice(1, 11);
  EXPECT_TRUE(close(padded, one_pass(*model, {tokens.slice(1, 11), {}}), 1e-5));
  EXPECT_FALSE(close(padded, one_pass(*model, {tokens, {}}).slice(1, 11), 1e-2));
}

/// Slow modes, whose recurrence remembers much more than the window that is cut out of it.
TEST(Mega, ATruncatedAverageIsTheConvolutionWithTheCutKernel) {
  torch::NoGradGuard no_grad;
  MegaLayerConfig config;
  config.model_dim = 3, config.ema_ndim = 2, config.truncation = 700;
  MovingAverage average(config);
  average.init_weights(1);
  for (auto& item : average.named_parameters())
    if (item.key() == "alpha") item.value().fill_(-9);  // q = 1 − 6e-5
  const Tensor x = torch::randn({1, 2000, 3});
  const nn::EmaCoefficients ema = average.coefficients();
  const nn::EmaCoefficients wide = {ema.p_DN.to(torch::kFloat64), ema.q_DN.to(torch::kFloat64),
                                    ema.c_DN.to(torch::kFloat64)};
  const Tensor taps_DK = nn::ema_kernel(wide, 700),
               past = torch::constant_pad_nd(x, {0, 0, 699, 0}).to(torch::kFloat64);
  const Tensor sum_BLD = (past.unfold(1, 700, 1) * taps_DK.flip(1)).sum(-1);
  const Tensor omega = average.named_parameters()["omega"].to(torch::kFloat64);
  const Tensor expected = torch::silu(sum_BLD + omega * x);
  EXPECT_TRUE(close(average.forward(x, {}, {}, nullptr), expected, 1e-5));
  MegaLayerState state;
  std::vector<Tensor> parts;
  for (const int64_t at : {0, 300, 600, 900, 1200, 1500, 1800}) {
    MegaLayerState after;
    parts.push_back(average.forward(x.slice(1, at, at + 300), {}, state, &after));
    state = after;
    EXPECT_EQ(state.window_BTD.size(1), 700);
  }
  EXPECT_TRUE(close(torch::cat(parts, 1), expected, 1e-5));
}

TEST(Mega, ValuesOfStepsAndOfAMemoryAreDroppedApart) {
  MegaLayerConfig config;
  config.model_dim = config.value_dim = 16, config.z_dim = 8, config.ffn_hidden_dim = 0, config.ema_ndim = 2;
  config.hidden_dropout = 0.5, config.position = "simple", config.max_positions = 16;
  config.cross = true;
  const auto one_of_both = [&](bool cross) {
    // The mask shows in the gradient of the bias of the values, where the other path is cut off.
    MegaLayer layer(config);
    layer.init_weights(1);
    NoCarry none;
    torch::manual_seed(2);
    const Tensor x = torch::randn({1, 1, 16}), memory = torch::randn({1, 1, 16});
    layer.forward(x, {}, {{memory, {}}}, none, 0, 7).sum().backward();
    const char* name = cross ? "cross_attn.v_proj.bias" : "mega_layer.v_proj.bias";
    return layer.named_parameters()[name].grad() == 0;
  };
  const Tensor steps = one_of_both(false), memory = one_of_both(true);
  EXPECT_GT(steps.sum().item<int64_t>(), 0);
  EXPECT_GT(memory.sum().item<int64_t>(), 0);
  EXPECT_FALSE(torch::equal(steps, memory));
}

TEST(Mega, WhatCannotBeIsRefused) {
  const auto refuses = [](const std::function<void(MegaConfig&)>& change) {
    const auto config = tiny_mega("mega_chunk-tiny");
    change(*config);
    EXPECT_THROW(config->validate(), UsageError);
  };
  refuses([](MegaConfig& c) { c.layer.z_dim = 7; });
  refuses([](MegaConfig& c) { c.layer.attention = "linear"; });
  refuses([](MegaConfig& c) { c.layer.truncation = -1; });
  refuses([](MegaConfig& c) { c.layer.dropout = 1; });
  for (const char* cutoffs : {"0", "32,32", "96,32", "256", "32,", ",", "x", "32;96", "99999999999999999999"})
    refuses([&](MegaConfig& c) { c.adaptive.cutoffs = cutoffs; });
  refuses([](MegaConfig& c) { c.adaptive.cutoffs = "32", c.share_emb = false; });
  refuses([](MegaConfig& c) { c.adaptive.cutoffs = "32", c.adaptive.factor = 17; });
}

TEST(MegaStack, WhatCannotBeIsRefused) {
  const auto refuses = [](const std::function<void(MegaStackConfig&)>& change) {
    MegaStackConfig config;
    config.layer = tiny_mega("mega_chunk-tiny")->layer, config.num_layers = 1;
    EXPECT_NO_THROW(MegaStack{config});
    change(config);
    EXPECT_THROW(MegaStack{config}, UsageError);
  };
  refuses([](MegaStackConfig& c) { c.num_layers = -1; });
  refuses([](MegaStackConfig& c) { c.layer.z_dim = 7; });
  refuses([](MegaStackConfig& c) { c.layer.chunk_size = -1; });
  refuses([](MegaStackConfig& c) { c.layer.attention = "relu"; });
  refuses([](MegaStackConfig& c) { c.layer.norm = "layernorm"; });
  refuses([](MegaStackConfig& c) { c.layer.norm_eps = std::numeric_limits<double>::infinity(); });
}

TEST(Mega, BatchNormsAreForEncoders) {
  const auto config = tiny_mega("mega_chunk-tiny");
  config->layer.norm = "batch";
  EXPECT_THROW(config->build(), UsageError);
  EXPECT_NO_THROW(config->build_encoder());
}

TEST(Mega, AStreamBeyondATableOfPositionsIsAnError) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_mega("mega-tiny");
  const auto model = noisy_model(*config);
  StreamCarry carry;
  model->hidden({random_tokens(*config, 1, 128), {}}, carry);
  EXPECT_THROW(model->hidden({random_tokens(*config, 1, 1), {}}, carry), Error);
}

}  // namespace
}  // namespace megalodon
