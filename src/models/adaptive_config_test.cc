// Language models whose vocabularies lie in bands. Refusals and equations are tested with each architecture.
#include "models/adaptive_config.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "models/testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;
using testing::one_pass;
using testing::random_tokens;

class AdaptiveVocabularies : public ::testing::TestWithParam<const char*> {};

INSTANTIATE_TEST_SUITE_P(Presets, AdaptiveVocabularies, ::testing::Values("mega_chunk-tiny", "s4-tiny"));

TEST_P(AdaptiveVocabularies, AreDistributions) {
  const auto config = testing::in_bands(GetParam());
  const auto model = testing::noisy_model(*config);
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

TEST_P(AdaptiveVocabularies, StreamInEveryPrecision) {
  torch::NoGradGuard no_grad;
  const auto config = testing::in_bands(GetParam());
  const auto model = testing::noisy_model(*config);
  const Tensor tokens = random_tokens(*config, 2, 30);
  const Tensor expected = one_pass(*model, {tokens, {}});
  StreamCarry carry;
  EXPECT_TRUE(close(testing::in_calls(*model, {tokens, {}}, {3, 1, 20, 6}, carry), expected, 1e-5));
  model->set_precision(nn::Precision::kBfloat16);
  const Tensor rounded = one_pass(*model, {tokens, {}});
  EXPECT_TRUE(close(rounded, expected, 3e-2));
  EXPECT_FALSE(close(rounded, expected, 1e-5));
  model->set_precision(nn::Precision::kFloat32);
  model->fix(ops::FixedType::kQ8);
  const Tensor fixed = one_pass(*model, {tokens, {}});
  EXPECT_TRUE(close(fixed, expected, 5e-2));
  EXPECT_FALSE(close(fixed, expected, 1e-5));
  EXPECT_THROW(one_pass(*model, {torch::full({1, 3}, 256, torch::kInt64), {}}), Error);
}

}  // namespace
}  // namespace megalodon
