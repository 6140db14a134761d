#include "ops/sequence_norm/sequence_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::sequence_norm_test {
namespace {

using testing::close;

const auto kFloat64 = torch::dtype(torch::kFloat64);

TEST(SequenceNorm, follows_the_definition) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({2, 9, 6}, kFloat64) + 2, scale = torch::randn({6}, kFloat64),
               bias = torch::randn({6}, kFloat64);
  const Tensor mask = torch::rand({2, 9}) < 0.4;
  const auto out = sequence_norm(x, scale, bias, {3, 1e-3, mask});
  for (int64_t b = 0; b < 2; ++b) {
    const Tensor kept = mask[b].logical_not().nonzero().flatten();
    EXPECT_EQ(out.count_B[b].item<int64_t>(), kept.size(0));
    for (int64_t g = 0; g < 3; ++g) {
      const Tensor numbers = x[b].index_select(0, kept).slice(1, 2 * g, 2 * g + 2);
      const double mean = numbers.mean().item<double>(), rstd = 1 / std::sqrt(numbers.var(false).item<double>() + 1e-3);
      EXPECT_NEAR(out.mean_BG[b][g].item<double>(), mean, 1e-12);
      EXPECT_NEAR(out.rstd_BG[b][g].item<double>(), rstd, 1e-12);
      const Tensor y = (numbers - mean) * rstd * scale.slice(0, 2 * g, 2 * g + 2) + bias.slice(0, 2 * g, 2 * g + 2);
      EXPECT_TRUE(close(out.y_BLD[b].index_select(0, kept).slice(1, 2 * g, 2 * g + 2), y, 1e-12));
    }
    EXPECT_EQ(out.y_BLD[b].index({mask[b]}).abs().sum().item<double>(), 0);
  }
}

TEST(SequenceNorm, gradients_match_central_differences) {
  torch::manual_seed(2);
  const Tensor mask = torch::tensor({{false, true, false, false, true}, {true, false, false, true, false}});
  const Tensor dy = torch::randn({2, 5, 4}, kFloat64), dmean = torch::randn({2, 2}, kFloat64);
  const auto loss = [&](const std::vector<Tensor>& t) {
    const auto out = sequence_norm(t[0], t[1], t[2], {2, 1e-3, mask});
    return (out.y_BLD * dy).sum() + (out.mean_BG * dmean).sum() + (out.rstd_BG * dmean).sum();
  };
  testing::check_gradients(
      loss, {torch::randn({2, 5, 4}, kFloat64), torch::randn({4}, kFloat64), torch::randn({4}, kFloat64)}, 1e-6, 1e-5);
}

TEST(SequenceNorm, nothing_in_a_masked_step_matters) {
  torch::manual_seed(3);
  const Tensor scale = torch::randn({4}), bias = torch::randn({4}), mask = torch::tensor({{false, true, false}});
  const auto run = [&](float garbage) {
    torch::manual_seed(4);
    Tensor x = torch::randn({1, 3, 4});
    x[0][1].fill_(garbage);
    x.set_requires_grad(true);
    const auto out = sequence_norm(x, scale, bias, {2, 1e-5, mask});
    (out.y_BLD * torch::arange(12).view({1, 3, 4})).sum().backward();
    return std::vector<Tensor>{out.y_BLD, out.mean_BG, x.grad()};
  };
  const auto plain = run(0), poisoned = run(std::numeric_limits<float>::quiet_NaN());
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_TRUE(torch::equal(plain[i], poisoned[i])) << i;
  EXPECT_EQ(plain[2][0][1].abs().max().item<float>(), 0);
}

TEST(SequenceNorm, types_and_empty_sequences) {
  const Tensor x = torch::randn({1, 6, 4}), ones = torch::ones({4}), zeros = torch::zeros({4});
  const auto reduced = sequence_norm(x.to(torch::kBFloat16), ones, zeros, {4});
  EXPECT_EQ(reduced.y_BLD.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(reduced.mean_BG.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(close(reduced.y_BLD, sequence_norm(x, ones, zeros, {4}).y_BLD, 0.01, 0.01));
  const auto nothing = sequence_norm(x, ones, zeros, {4, 1e-5, torch::ones({1, 6}, torch::kBool)});
  EXPECT_EQ(nothing.count_B.item<int64_t>(), 0);
  EXPECT_EQ(nothing.y_BLD.abs().max().item<float>(), 0);
}

TEST(SequenceNorm, wrong_arguments_are_named) {
  const auto expect_error = [](const char* text, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  const Tensor x = torch::randn({1, 3, 4}), ones = torch::ones({4});
  expect_error("[sequence_norm] x must have 3 axes", [&] { sequence_norm(x[0], ones, ones, {2}); });
  expect_error("[sequence_norm] groups must divide", [&] { sequence_norm(x, ones, ones, {3}); });
  expect_error("[sequence_norm] expected scale and bias", [&] { sequence_norm(x, ones, {}, {2}); });
  expect_error("[sequence_norm] scale must be [4]", [&] { sequence_norm(x, torch::ones({5}), ones, {2}); });
  expect_error("[sequence_norm] padding_mask must be bool", [&] {
    sequence_norm(x, ones, ones, {2, 1e-5, torch::ones({1, 3})});
  });
}

}  // namespace
}  // namespace megalodon::ops::sequence_norm_test
