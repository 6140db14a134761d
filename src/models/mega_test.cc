// What is special to Mega; what all architectures share is in registry_test.cc.
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

/// Kernel of chunk_attention() with the bias in its queries and keys, and composition.
TEST(Mega, BothWaysOfAttendingAreOneFunction) {
  torch::NoGradGuard no_grad;
  for (const int64_t chunk : {0, 8}) {
    const auto config = tiny_mega("mega_chunk-tiny");
    config->layer.chunk_size = chunk;
    const auto model = noisy_model(*config);
    const Tensor tokens = random_tokens(*config, 2, 30);
    const Tensor kernel = one_pass(*model, {tokens, {}});
    NoCarry none;
    // Padding that is nowhere: the composition, which alone knows padding.
    const Tensor composed = model->logits({tokens, {}, torch::zeros({2, 30}, torch::kBool)}, none);
    EXPECT_TRUE(close(kernel, composed, 1e-5)) << chunk;
  }
}

TEST(Mega, PaddingBehindASequenceChangesNothingBeforeIt) {
  torch::NoGradGuard no_grad;
  for (const char* preset : {"mega_chunk-tiny", "mega-tiny", "mega_laplace-tiny"}) {
    const auto config = tiny_mega(preset);
    const auto model = noisy_model(*config);
    const Tensor tokens = random_tokens(*config, 1, 30);
    Tensor padding = torch::zeros({1, 30}, torch::kBool);
    padding.slice(1, 19) = true;
    NoCarry none;
    const Tensor padded = model->logits({tokens, {}, padding}, none).slice(1, 0, 19);
    EXPECT_TRUE(close(padded, one_pass(*model, {tokens.slice(1, 0, 19), {}}), 1e-5)) << preset;
  }
}

TEST(Mega, AnAdaptiveVocabularyIsADistribution) {
  const auto config = tiny_mega("mega_chunk-tiny");
  config->adaptive_cutoffs = "32,96", config->adaptive_factor = 2;
  const auto model = noisy_model(*config);
  const Tensor tokens = random_tokens(*config, 2, 40), targets = random_tokens(*config, 2, 40, 3).clone();
  targets[0][7] = -100;
  NoCarry none;
  const Tensor logits = one_pass(*model, {tokens, {}});
  EXPECT_TRUE(close(logits.exp().sum(-1), torch::ones({2, 40}), 1e-5));
  const Tensor nll = model->nll({tokens, {}}, targets, none);
  EXPECT_EQ(nll[0][7].item<float>(), 0);
  const Tensor expected = -logits.gather(2, targets.clamp_min(0).unsqueeze(2)).squeeze(2);
  EXPECT_TRUE(close(nll, expected * targets.ge(0), 1e-5));
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
    refuses([&](MegaConfig& c) { c.adaptive_cutoffs = cutoffs; });
  refuses([](MegaConfig& c) { c.adaptive_cutoffs = "32", c.share_emb = false; });
  refuses([](MegaConfig& c) { c.adaptive_cutoffs = "32", c.adaptive_factor = 17; });
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
