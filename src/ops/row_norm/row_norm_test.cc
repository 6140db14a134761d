#include "ops/row_norm/row_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::row_norm_test {
namespace {

using testing::close;
using Norm = std::function<Tensor(const Tensor& x, const Tensor& weight, const Tensor& bias)>;

constexpr double kEps = 1e-5;

struct Pair {
  const char* name;
  Norm fast, plain;
};

const std::vector<Pair> kNorms = {
    {"rms_norm", [](const Tensor& x, const Tensor& w, const Tensor&) { return rms_norm(x, w, kEps); },
     [](const Tensor& x, const Tensor& w, const Tensor&) { return ref::rms_norm(x, w, kEps); }},
    {"layer_norm", [](const Tensor& x, const Tensor& w, const Tensor& b) { return layer_norm(x, w, b, kEps); },
     [](const Tensor& x, const Tensor& w, const Tensor& b) { return ref::layer_norm(x, w, b, kEps); }},
};

struct Case {
  std::vector<int64_t> shape;
  bool affine;
  double scale, offset;
};

// One row, odd sizes, rows shorter and longer than a vector, serial and parallel sizes, small inputs, large means.
const std::vector<Case> kCases = {
    {{1, 1, 8}, true, 1, 0},        {{5}, true, 1, 2},        {{3, 7, 16}, true, 2, -1},  {{2, 64, 4, 64}, false, 1, 0},
    {{1, 129, 24}, true, 0.003, 0}, {{700, 33}, true, 3, 50}, {{40, 4099}, true, 1, 0.5}, {{9, 1, 4096}, false, 1, 10},
    {{3000, 65}, true, 1, 0},       {{4, 1}, true, 1, 0},     {{2, 0, 8}, true, 1, 0},
};

/// y and the gradients of x, weight and bias (where there is one and the norm uses it).
std::vector<Tensor> run(const Norm& norm, const Case& c, torch::ScalarType type) {
  torch::manual_seed(static_cast<uint64_t>(c.shape.back()));
  const int64_t size = c.shape.back();
  const auto leaf = [&](const Tensor& t) { return t.to(type).set_requires_grad(true); };
  const Tensor x = leaf(torch::randn(c.shape) * c.scale + c.offset), dy = torch::randn(c.shape).to(type);
  const Tensor weight = c.affine ? leaf(torch::randn({size}) * 0.3) : Tensor();
  const Tensor bias = c.affine ? leaf(torch::randn({size})) : Tensor();
  const Tensor y = norm(x, weight, bias);
  y.backward(dy);
  std::vector<Tensor> results = {y.detach()};
  for (const Tensor& t : {x, weight, bias})
    if (t.defined() && t.grad().defined()) results.push_back(t.grad());
  return results;
}

TEST(RowNorm, reference_follows_the_definition) {
  const Tensor x = torch::randn({6}, torch::kFloat64), w = torch::randn({6}, torch::kFloat64),
               b = torch::randn({6}, torch::kFloat64);
  double mean = 0, square = 0, var = 0;
  for (int64_t i = 0; i < 6; ++i) mean += x[i].item<double>() / 6, square += std::pow(x[i].item<double>(), 2) / 6;
  for (int64_t i = 0; i < 6; ++i) var += std::pow(x[i].item<double>() - mean, 2) / 6;
  const Tensor rms = ref::rms_norm(x, w, kEps), layer = ref::layer_norm(x, w, b, kEps);
  for (int64_t i = 0; i < 6; ++i) {
    const double value = x[i].item<double>(), factor = 1 + w[i].item<double>();
    EXPECT_NEAR(rms[i].item<double>(), value / std::sqrt(square + kEps) * factor, 1e-12);
    EXPECT_NEAR(layer[i].item<double>(), (value - mean) / std::sqrt(var + kEps) * factor + b[i].item<double>(), 1e-12);
  }
}

TEST(RowNorm, kernel_is_as_close_to_float64_as_the_float32_reference) {
  for (const Pair& norm : kNorms) {
    for (const Case& c : kCases) {
      SCOPED_TRACE(std::string(norm.name) + " " + ::testing::PrintToString(c.shape));
      const auto exact = run(norm.plain, c, torch::kFloat64), plain = run(norm.plain, c, torch::kFloat32);
      const auto fast = run(norm.fast, c, torch::kFloat32);
      ASSERT_EQ(fast.size(), exact.size());
      for (size_t i = 0; i < exact.size(); ++i) {
        ASSERT_EQ(fast[i].sizes(), exact[i].sizes());
        if (exact[i].numel() == 0) continue;
        const auto error = [&](const Tensor& t) {
          return (t.to(torch::kFloat64) - exact[i]).abs().max().item<double>();
        };
        // Where dx is a difference that all but vanishes (rows of one number) the rounding of its terms remains.
        const double floor = 1e-6 * exact[i].abs().max().item<double>() + (c.shape.back() == 1 ? 1e-4 : 0);
        EXPECT_LE(error(fast[i]), 2 * error(plain[i]) + floor) << "result " << i;
      }
    }
  }
}

TEST(RowNorm, gradients_match_central_differences) {
  for (const Pair& norm : kNorms) {
    const Tensor cotangent = torch::randn({3, 5}, torch::kFloat64);
    const auto random = [](at::IntArrayRef sizes) { return torch::randn(sizes, torch::kFloat64); };
    const bool bias = norm.name == std::string("layer_norm");
    const auto loss = [&](const std::vector<Tensor>& t) {
      return (norm.plain(t[0], t[1], bias ? t[2] : Tensor()) * cotangent).sum();
    };
    std::vector<Tensor> inputs = {random({3, 5}), random({5})};
    if (bias) inputs.push_back(random({5}));
    testing::check_gradients(loss, inputs, 1e-6, 1e-5);
  }
}

TEST(RowNorm, a_huge_mean_costs_layer_norm_no_digits) {
  torch::manual_seed(5);
  const Tensor small = torch::randint(-16, 17, {30, 40}).to(torch::kFloat32) / 512,
               x = small + 16384;  // exact in float32
  EXPECT_TRUE(close(layer_norm(x, {}, {}, kEps), ref::layer_norm(small.to(torch::kFloat64), {}, {}, kEps), 1e-6));
}

TEST(RowNorm, any_number_of_threads_gives_the_same_bits) {
  const int threads = at::get_num_threads();
  for (const Pair& norm : kNorms) {
    for (const Case& c : kCases) {
      at::set_num_threads(1);
      const auto one = run(norm.fast, c, torch::kFloat32);
      at::set_num_threads(3);
      const auto three = run(norm.fast, c, torch::kFloat32);
      at::set_num_threads(threads);
      for (size_t i = 0; i < one.size(); ++i)
        EXPECT_TRUE(torch::equal(one[i], three[i]))
            << norm.name << ::testing::PrintToString(c.shape) << " result " << i;
    }
  }
}

TEST(RowNorm, layouts_and_types) {
  const Tensor x = torch::randn({7, 12}), weight = torch::randn({12}), bias = torch::randn({12});
  for (const Pair& norm : kNorms) {
    const Tensor expected = norm.fast(x, weight, bias), strided = x.t().contiguous().t();
    ASSERT_FALSE(strided.is_contiguous());
    EXPECT_TRUE(torch::equal(norm.fast(strided, weight, bias), expected));
    const Tensor reduced = norm.fast(x.to(torch::kBFloat16), weight, bias);
    EXPECT_EQ(reduced.scalar_type(), torch::kBFloat16);
    EXPECT_TRUE(close(reduced, expected, 0.01));
    EXPECT_TRUE(close(expected, norm.fast(x.to(torch::kFloat64), weight, bias), 1e-6));
    EXPECT_TRUE(close(norm.fast(x, weight.to(torch::kBFloat16), {}), norm.fast(x, weight, {}), 0.01));
  }
}

TEST(RowNorm, wrong_arguments_are_named) {
  const auto expect_error = [](const char* text, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  const Tensor x = torch::randn({2, 8});
  expect_error("[rms_norm] weight must be [8]", [&] { rms_norm(x, torch::ones({9}), kEps); });
  expect_error("[layer_norm] bias must be [8]", [&] { layer_norm(x, {}, torch::ones({1, 8}), kEps); });
  expect_error("[rms_norm] eps must be positive", [&] { rms_norm(x, {}, -1); });
  expect_error("[layer_norm] x must have one or more axes", [&] { layer_norm(torch::ones({}), {}, {}, kEps); });
  expect_error("[rms_norm] x must be a tensor of floating point", [&] { rms_norm(x.to(torch::kInt64), {}, kEps); });
}

}  // namespace
}  // namespace megalodon::ops::row_norm_test
