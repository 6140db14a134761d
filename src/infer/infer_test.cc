#include <gtest/gtest.h>

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

void generate_from_start(Model& model, const std::vector<int64_t>& prompt, int64_t count, int64_t vocabulary,
                         Sampler& sampler, const std::function<bool(int64_t)>& emit, const ObserveToken& observe = {}) {
  const Engine engine(model);
  Stream stream;
  generate(engine, stream, prompt, count, vocabulary, sampler, emit, observe);
  EXPECT_EQ(stream.tokens() == 0, prompt.empty());
}

TEST(Generate, ContinuesExactlyAsThePromptGrownByHand) {
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  std::vector<int64_t> sequence = {3, 1, 4, 1, 5};
  std::vector<int64_t> drawn;
  Sampler greedy({.temperature = 0});
  generate_from_start(*model, sequence, 3 * config.chunk_size, config.vocab_size, greedy, [&](int64_t token) {
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
  Sampler sampler({.temperature = 1});
  int tokens = 0;
  generate_from_start(*model, {1}, -1, 5, sampler, [&](int64_t token) {
    EXPECT_LT(token, 5);
    return ++tokens < 7;
  });
  EXPECT_EQ(tokens, 7);
  EXPECT_THROW(generate_from_start(*model, {}, 1, 5, sampler, [](int64_t) { return true; }), Error);
}

/// What generate() shows of every token.
struct Observed {
  std::vector<int64_t> indices, tokens;
  std::vector<double> logprobs;
};

Observed observe(Model& model, const std::vector<int64_t>& prompt, int64_t count, int64_t vocabulary) {
  Observed seen;
  Sampler sampler({.temperature = 1, .seed = 2});
  generate_from_start(
      model, prompt, count, vocabulary, sampler, [](int64_t) { return true; },
      [&](int64_t index, int64_t token, std::span<const float> logits_V) {
        EXPECT_EQ(std::ssize(logits_V), vocabulary);
        seen.indices.push_back(index);
        seen.tokens.push_back(token);
        seen.logprobs.push_back(logprobs(logits_V, token, 0).logprob);
      });
  return seen;
}

TEST(Generate, ShowsEveryTokenButTheFirstAsItIsScored) {
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  for (const int64_t length :
       {int64_t{1}, int64_t{2}, int64_t{64}, int64_t{65}, int64_t{66}, EngineOptions().block + 70}) {
    const Tensor prompt_L = random_tokens(config, 1, length)[0];
    std::vector<int64_t> sequence(prompt_L.data_ptr<int64_t>(), prompt_L.data_ptr<int64_t>() + length);
    const Observed seen = observe(*model, sequence, 5, config.vocab_size);
    ASSERT_EQ(std::ssize(seen.tokens), length + 4);
    sequence.insert(sequence.end(), seen.tokens.end() - 5, seen.tokens.end());
    EXPECT_EQ(seen.tokens, std::vector<int64_t>(sequence.begin() + 1, sequence.end()));
    for (size_t i = 0; i < seen.indices.size(); ++i) ASSERT_EQ(seen.indices[i], static_cast<int64_t>(i) + 1);
    const Tensor tokens_BL = torch::tensor(sequence, torch::kInt64).unsqueeze(0);
    const Tensor nll_BL = score(*model, tokens_BL.narrow(1, 0, length + 4), tokens_BL.narrow(1, 1, length + 4));
    EXPECT_TRUE(close(torch::tensor(seen.logprobs, torch::kFloat64), -nll_BL[0], 1e-5)) << length;
  }
}

TEST(Generate, ObservingChangesNothingAndAPromptMayBeAllThereIs) {
  const auto model = noisy_model(tiny_config());
  std::vector<int64_t> drawn;
  Sampler sampler({.temperature = 1, .seed = 2});
  generate_from_start(*model, {1, 2, 3}, 40, 7, sampler, [&](int64_t token) {
    drawn.push_back(token);
    return true;
  });
  const Observed seen = observe(*model, {1, 2, 3}, 40, 7);
  EXPECT_EQ(std::vector<int64_t>(seen.tokens.begin() + 2, seen.tokens.end()), drawn);
  EXPECT_EQ(observe(*model, {1, 2, 3}, 0, 7).tokens, (std::vector<int64_t>{2, 3}));
}

TEST(Generate, PenaltiesSeeThePromptAndABiasMustFitTheVocabulary) {
  const auto model = noisy_model(tiny_config());
  const auto first = [&](SamplerConfig config) {
    int64_t drawn = -1;
    Sampler sampler(config);
    generate_from_start(*model, {3, 4}, 1, 5, sampler, [&](int64_t token) {
      drawn = token;
      return true;
    });
    return drawn;
  };
  for (const int64_t allowed : {0, 1, 2}) {
    std::vector<std::string> banned;
    for (const int64_t token : {0, 1, 2})
      if (token != allowed) banned.push_back(fmt::format("{}=-inf", token));
    EXPECT_EQ(first({.temperature = 0, .presence_penalty = 1e6, .logit_bias = banned}), allowed);
  }
  EXPECT_THROW(first({.logit_bias = {"5=1"}}), UsageError);
}

TEST(Generate, ObservesAFixedModelToo) {
  const auto model = noisy_model(tiny_config()), fixed = noisy_model(tiny_config());
  fixed->fix(ops::FixedType::kFloat32);
  const Observed expected = observe(*model, {1, 2, 3, 4}, 9, 19), seen = observe(*fixed, {1, 2, 3, 4}, 9, 19);
  EXPECT_EQ(seen.tokens, expected.tokens);
  EXPECT_TRUE(
      close(torch::tensor(seen.logprobs, torch::kFloat64), torch::tensor(expected.logprobs, torch::kFloat64), 1e-5));
}

TEST(Generate, AStreamThatGoesOnIsTheStreamThatNeverStopped) {
  const auto model = noisy_model(tiny_config());
  const Engine engine(*model);
  const auto run = [&](const std::vector<int64_t>& counts) {
    std::vector<int64_t> seen;
    Sampler sampler({.temperature = 1, .seed = 8, .repetition_penalty = 1.3});
    Stream stream;
    for (const int64_t count : counts)
      generate(
          engine, stream, stream.tokens() == 0 ? std::vector<int64_t>{1, 2, 3} : std::vector<int64_t>{}, count, 19,
          sampler, [](int64_t) { return true; },
          [&](int64_t index, int64_t token, std::span<const float>) {
            EXPECT_EQ(index, std::ssize(seen) + 1);
            seen.push_back(token);
          });
    return seen;
  };
  EXPECT_EQ(run({9, 0, 1, 20}), run({30}));
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
