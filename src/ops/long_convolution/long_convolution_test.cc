// The FFT against the sum over lags, the sum against finite differences, and documents that must not see each other.
#include "ops/long_convolution/long_convolution.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::long_convolution_test {
namespace {

using testing::check_gradients;
using testing::close;

struct Case {
  int64_t B, L, D, C, K;
  bool reverse, starts;
};

// Kernels shorter, as long and longer than the sequence; lengths at and around powers of two.
const Case kCases[] = {{1, 1, 1, 1, 1, false, false}, {2, 7, 3, 2, 7, true, false},   {1, 8, 5, 1, 20, true, true},
                       {3, 33, 4, 2, 5, false, true}, {2, 64, 3, 1, 64, true, false}, {2, 65, 3, 1, 65, false, true},
                       {1, 1, 2, 1, 4, true, true}};

struct Problem {
  Tensor x, kernel, skip, reverse, starts;
  ConvolutionOptions options() const { return {reverse, starts}; }
};

Problem make_problem(const Case& c) {
  torch::manual_seed(1);
  const auto type = torch::dtype(torch::kFloat64);
  Problem p;
  p.x = torch::randn({c.B, c.L, c.D}, type);
  p.kernel = torch::randn({c.C, c.D, c.K}, type);
  p.skip = torch::randn({c.C, c.D}, type);
  if (c.reverse) p.reverse = torch::randn({c.C, c.D, c.K}, type);
  if (c.starts) p.starts = torch::rand({c.B, c.L}) < 0.2;
  return p;
}

TEST(LongConvolution, equals_the_sum_over_lags) {
  for (const Case& c : kCases) {
    const Problem p = make_problem(c);
    const Tensor expected = ref::long_convolution(p.x, p.kernel, p.skip, p.options());
    ASSERT_EQ(expected.sizes(), (std::vector<int64_t>{c.B, c.L, c.C * c.D}));
    EXPECT_TRUE(close(long_convolution(p.x, p.kernel, p.skip, p.options()), expected, 1e-12)) << c.L;
    const auto single = [](const Tensor& t) { return t.defined() ? t.to(torch::kFloat32) : t; };
    const Tensor got = long_convolution(single(p.x), single(p.kernel), single(p.skip),
                                        {p.reverse.defined() ? single(p.reverse) : Tensor(), p.starts});
    EXPECT_EQ(got.scalar_type(), torch::kFloat32);
    EXPECT_TRUE(close(got, expected, 2e-6)) << c.L;
  }
}

TEST(LongConvolution, gradients_match_central_differences) {
  for (const Case& c : {Case{2, 7, 2, 2, 5, true, true}, Case{1, 4, 2, 1, 6, true, false}}) {
    const Problem p = make_problem(c);
    const Tensor dy = torch::randn({c.B, c.L, c.C * c.D}, torch::kFloat64);
    for (const bool reference : {false, true}) {
      const auto op = reference ? &ref::long_convolution : &long_convolution;
      const auto loss = [&](const std::vector<Tensor>& t) {
        return (op(t[0], t[1], t[2], {t[3], p.starts}) * dy).sum();
      };
      check_gradients(loss, {p.x, p.kernel, p.skip, p.reverse}, 1e-6, 1e-5);
    }
  }
}

/// What stands in a document, and how long its neighbours are, changes no bit of another.
TEST(LongConvolution, a_document_never_sees_its_neighbours) {
  torch::manual_seed(2);
  const Tensor kernel = torch::randn({1, 3, 40}), skip = torch::randn({1, 3}), text = torch::randn({1, 9, 3});
  const auto among = [&](int64_t before, int64_t after, int64_t seed) {
    torch::manual_seed(seed);
    const Tensor x = torch::cat({torch::randn({1, before, 3}), text, torch::randn({1, after, 3})}, 1).requires_grad_();
    Tensor starts = torch::zeros({1, x.size(1)}, torch::kBool);
    starts[0][before] = true, starts[0][before + 9] = true;
    const Tensor y = long_convolution(x, kernel, skip, {{}, starts}).narrow(1, before, 9);
    y.square().sum().backward();
    EXPECT_EQ(x.grad().narrow(1, 0, before).abs().max().item<float>(), 0);
    return std::pair{y, x.grad().narrow(1, before, 9)};
  };
  const auto [y, gradient] = among(5, 7, 3);
  const auto [y_of_others, gradient_of_others] = among(20, 2, 4);
  EXPECT_TRUE(torch::equal(y, y_of_others));
  EXPECT_TRUE(torch::equal(gradient, gradient_of_others));
  EXPECT_TRUE(close(y, long_convolution(text, kernel, skip), 1e-6));
}

TEST(LongConvolution, wrong_arguments_are_named) {
  const Tensor x = torch::randn({2, 5, 3}), kernel = torch::randn({1, 3, 5}), skip = torch::randn({1, 3});
  const auto expect_error = [](const char* text, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  expect_error("x must be", [&] { long_convolution(x[0], kernel, skip); });
  expect_error("x must be", [&] { long_convolution(x.to(torch::kBFloat16), kernel, skip); });
  expect_error("kernel must be", [&] { long_convolution(x, kernel.to(torch::kFloat64), skip); });
  expect_error("kernel must be", [&] { long_convolution(x, kernel.narrow(1, 0, 2), skip); });
  expect_error("skip must be [C,D] = [1,3]", [&] { long_convolution(x, kernel, skip[0]); });
  expect_error("reverse must be", [&] { long_convolution(x, kernel, skip, {torch::randn({2, 3, 5}), {}}); });
  expect_error("starts must be bool [B,L] = [2,5]", [&] { long_convolution(x, kernel, skip, {{}, torch::ones({2})}); });
}

}  // namespace
}  // namespace megalodon::ops::long_convolution_test
