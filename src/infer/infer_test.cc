#include <gtest/gtest.h>

#include <map>

#include "base/check.h"
#include "infer/generate.h"
#include "infer/score.h"
#include "models/testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;
using testing::noisy_model;
using testing::random_tokens;
using testing::tiny_config;

std::map<int64_t, int> histogram(const SamplerConfig& config, const Tensor& logits, int draws) {
  Sampler sampler(config);
  std::map<int64_t, int> counts;
  for (int i = 0; i < draws; ++i) ++counts[sampler.sample(logits)];
  return counts;
}

TEST(Sampler, ProbabilitiesFollowSoftmaxAtTheTemperature) {
  const Tensor logits = torch::tensor({0.0, 1.0, 2.0, -1.0});
  for (const double temperature : {0.5, 1.0, 2.0}) {
    const auto counts = histogram({temperature, 0, 1.0, 5}, logits, 20000);
    const Tensor expected = torch::softmax(logits / temperature, 0);
    for (const auto& [token, count] : counts)
      EXPECT_NEAR(count / 20000.0, expected[token].item<double>(), 0.015) << token;
  }
}

TEST(Sampler, TopKAndTopPCutTheTail) {
  const Tensor logits = torch::log(torch::tensor({0.1, 0.4, 0.2, 0.3}));
  EXPECT_EQ(histogram({0, 0, 1.0, 0}, logits, 50).size(), 1u);
  const auto two = histogram({1.0, 2, 1.0, 1}, logits, 2000);
  EXPECT_EQ(two.size(), 2u);
  EXPECT_TRUE(two.count(1) && two.count(3));
  const auto three = histogram({1.0, 0, 0.75, 1}, logits, 2000);  // 0.4 + 0.3 < 0.75 <= 0.4 + 0.3 + 0.2
  EXPECT_EQ(three.size(), 3u);
  EXPECT_FALSE(three.count(0));
  EXPECT_EQ(histogram({1.0, 0, 1e-9, 1}, logits, 50).size(), 1u);
}

TEST(Sampler, SameSeedSameDrawsAndBadSettingsAreRefused) {
  const Tensor logits = torch::zeros({100});
  Sampler a({1.0, 0, 1.0, 3}), b({1.0, 0, 1.0, 3}), c({1.0, 0, 1.0, 4});
  std::vector<int64_t> from_a, from_b, from_c;
  for (int i = 0; i < 20; ++i)
    from_a.push_back(a.sample(logits)), from_b.push_back(b.sample(logits)), from_c.push_back(c.sample(logits));
  EXPECT_EQ(from_a, from_b);
  EXPECT_NE(from_a, from_c);
  EXPECT_THROW(Sampler({-1.0, 0, 1.0, 0}), UsageError);
  EXPECT_THROW(Sampler({1.0, -1, 1.0, 0}), UsageError);
  EXPECT_THROW(Sampler({1.0, 0, 0.0, 0}), UsageError);
  EXPECT_THROW(a.sample(torch::full({3}, std::nan(""))), Error);
}

TEST(Generate, ContinuesExactlyAsThePromptGrownByHand) {
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  std::vector<int64_t> sequence = {3, 1, 4, 1, 5};
  std::vector<int64_t> drawn;
  Sampler greedy({0, 0, 1.0, 0});
  generate(*model, sequence, 3 * config.chunk_size, config.vocab_size, greedy, [&](int64_t token) {
    drawn.push_back(token);
    return true;
  });
  ASSERT_EQ(static_cast<int64_t>(drawn.size()), 3 * config.chunk_size);
  torch::NoGradGuard no_grad;
  for (const int64_t token : drawn) {
    NoCarry none;
    const Tensor logits = model->logits({torch::tensor(sequence, torch::kInt64).unsqueeze(0), {}}, none);
    ASSERT_EQ(logits[0][-1].argmax().item<int64_t>(), token);
    sequence.push_back(token);
  }
}

TEST(Generate, StopsWhenToldAndRefusesAnEmptyPrompt) {
  const auto model = noisy_model(tiny_config());
  Sampler sampler({1.0, 0, 1.0, 0});
  int tokens = 0;
  generate(*model, {1}, -1, 5, sampler, [&](int64_t token) {
    EXPECT_LT(token, 5);
    return ++tokens < 7;
  });
  EXPECT_EQ(tokens, 7);
  EXPECT_THROW(generate(*model, {}, 1, 5, sampler, [](int64_t) { return true; }), Error);
}

TEST(Generate, ABatchOfUnequalPromptsEqualsEachAlone) {
  const auto model = noisy_model(tiny_config());
  const std::vector<std::vector<int64_t>> prompts = {
      {1, 2, 3}, {4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, {2, 2, 2, 2, 9}};
  const auto together = generate_greedy(*model, prompts, 10);
  for (size_t i = 0; i < prompts.size(); ++i) EXPECT_EQ(together[i], generate_greedy(*model, {prompts[i]}, 10)[0]) << i;
}

TEST(Score, StretchesDoNotMatterAndTruncationIsOffByDefault) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const Tensor tokens = random_tokens(config, 2, 61), targets = random_tokens(config, 2, 61, 8);
  NoCarry none;
  const Tensor expected = model->nll({tokens, {}}, targets, none);
  for (const int64_t stretch : {1, 7, 8, 60, 1000}) {
    ScoreOptions options;
    options.stretch = stretch;
    EXPECT_TRUE(close(score(*model, tokens, targets, options), expected, 1e-5)) << stretch;
  }
  ScoreOptions truncated;
  truncated.stretch = 16, truncated.truncate_from = 32, truncated.window = 24;
  const Tensor changed = score(*model, tokens, targets, truncated);
  EXPECT_TRUE(close(changed.narrow(1, 0, 32), expected.narrow(1, 0, 32), 1e-5));
  EXPECT_FALSE(close(changed, expected, 1e-3));
}

TEST(Score, NeverAsksForMoreThanAStretchOrTheWindow) {
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const int64_t length = 100;
  const Tensor tokens = random_tokens(config, 1, length), targets = random_tokens(config, 1, length, 8);
  ScoreOptions options;
  options.stretch = 16, options.truncate_from = 64, options.window = 48;
  int64_t most = 0, next = 0;
  score(
      *model, length,
      [&](int64_t begin, int64_t steps) {
        most = std::max(most, steps);
        return Stretch{tokens.narrow(1, begin, steps), targets.narrow(1, begin, steps)};
      },
      [&](int64_t begin, const Stretch& stretch, const Tensor& nll_BL) {
        EXPECT_EQ(begin, next);
        EXPECT_TRUE(torch::equal(stretch.targets_BL, targets.narrow(1, begin, nll_BL.size(1))));
        next += nll_BL.size(1);
      },
      options);
  EXPECT_EQ(next, length);
  EXPECT_EQ(most, options.window);
}

}  // namespace
}  // namespace megalodon
