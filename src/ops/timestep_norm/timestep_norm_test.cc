// Shapes: B batch, L time, D features, G groups, K = D/G.
#include "ops/timestep_norm/timestep_norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::timestep_norm_test {
namespace {

using testing::close;
using Norm = TimestepNormOut (*)(const Tensor&, const Tensor&, const Tensor&, const TimestepNormOptions&);

struct Case {
  int64_t B, L, D, G;
  bool affine, state, mask, starts;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.B << 'x' << c.L << 'x' << c.D << " groups " << c.G << (c.affine ? " affine" : "")
             << (c.state ? " state" : "") << (c.mask ? " mask" : "") << (c.starts ? " starts" : "");
}

// Length 1, odd sizes, groups smaller than, equal to and not a multiple of a vector, serial and parallel sizes.
const std::vector<Case> kCases = {
    {1, 1, 8, 2, true, false, false, false},    {3, 1, 8, 4, true, true, false, false},
    {1, 7, 8, 2, false, false, false, false},   {2, 31, 12, 3, true, true, true, true},
    {2, 33, 8, 8, true, true, true, false},     {1, 129, 32, 1, true, false, false, true},
    {2, 257, 192, 4, true, true, true, true},   {1, 512, 96, 32, true, false, false, false},
    {3, 100, 330, 10, true, true, false, true}, {1, 70, 1100, 2, true, true, true, false},
    {1, 64, 600, 600, true, true, true, true},
};

struct Inputs {
  Tensor x_BLD, weight_D, bias_D, dy_BLD, dmean_BG, dvar_BG;
  TimestepNormOptions options;
};

Inputs random_inputs(const Case& c) {
  torch::manual_seed(c.L * 1000 + c.D);
  Inputs in;
  in.options.groups = c.G;
  in.x_BLD = torch::randn({c.B, c.L, c.D}) * 1.5 + torch::randn({c.D});
  in.dy_BLD = torch::randn({c.B, c.L, c.D});
  in.dmean_BG = torch::randn({c.B, c.G}, torch::kFloat64);
  in.dvar_BG = torch::randn({c.B, c.G}, torch::kFloat64);
  if (c.affine) in.weight_D = torch::randn({c.D}) * 0.3, in.bias_D = torch::randn({c.D});
  if (c.state) {
    in.options.state.count_B = torch::randint(0, 9, {c.B}, torch::kInt64);
    in.options.state.mean_BG = torch::randn({c.B, c.G}, torch::kFloat64);
    in.options.state.var_BG = torch::rand({c.B, c.G}, torch::kFloat64) + 0.2;
  }
  if (c.mask) in.options.padding_mask_BL = torch::rand({c.B, c.L}) < 0.3;
  if (c.starts) in.options.starts_BL = torch::rand({c.B, c.L}) < 0.08;
  return in;
}

/// y, mean, var and the gradients of x and of whichever of weight, bias, state are there, computed in `type`.
std::vector<Tensor> run(Norm norm, const Inputs& in, torch::ScalarType type = torch::kFloat32) {
  const auto leaf = [](const Tensor& t, torch::ScalarType to) {
    return t.defined() ? t.detach().to(to).clone().set_requires_grad(true) : t;
  };
  const Tensor x = leaf(in.x_BLD, type), weight = leaf(in.weight_D, type), bias = leaf(in.bias_D, type);
  TimestepNormOptions options = in.options;
  options.state.mean_BG = leaf(options.state.mean_BG, torch::kFloat64);
  options.state.var_BG = leaf(options.state.var_BG, torch::kFloat64);
  const TimestepNormOut out = norm(x, weight, bias, options);
  const Tensor loss = (out.y_BLD.to(torch::kFloat64) * in.dy_BLD).sum() + (out.state.mean_BG * in.dmean_BG).sum() +
                      (out.state.var_BG * in.dvar_BG).sum();
  loss.backward();
  std::vector<Tensor> results = {out.y_BLD.detach(), out.state.mean_BG.detach(), out.state.var_BG.detach()};
  for (const Tensor& t : {x, weight, bias, options.state.mean_BG, options.state.var_BG})
    if (t.defined()) results.push_back(t.grad());
  return results;
}

void expect_same_bits(const std::vector<Tensor>& got, const std::vector<Tensor>& expected) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::equal(got[i], expected[i])) << "result " << i;
}

double worst(const Tensor& a, const Tensor& b) {
  return (a.to(torch::kFloat64) - b.to(torch::kFloat64)).abs().max().item<double>();
}

/// y of one sequence straight from the definition: all numbers since the document's start, in long double.
Tensor by_definition(const Tensor& x_LD, int64_t groups, double eps, const Tensor& mask_L, const Tensor& starts_L) {
  const int64_t L = x_LD.size(0), D = x_LD.size(1), K = D / groups;
  const auto x = x_LD.accessor<float, 2>();
  Tensor y_LD = torch::zeros({L, D}, torch::kFloat64);
  auto y = y_LD.accessor<double, 2>();
  const auto set = [](const Tensor& flags, int64_t t) { return flags.defined() && flags[t].item<bool>(); };
  for (int64_t g = 0; g < groups; ++g) {
    std::vector<long double> seen;
    for (int64_t t = 0; t < L; ++t) {
      if (set(starts_L, t)) seen.clear();
      if (set(mask_L, t)) continue;
      for (int64_t i = g * K; i < (g + 1) * K; ++i) seen.push_back(x[t][i]);
      long double mean = 0, var = 0;
      for (const long double value : seen) mean += value / seen.size();
      for (const long double value : seen) var += (value - mean) * (value - mean) / seen.size();
      for (int64_t i = g * K; i < (g + 1) * K; ++i)
        y[t][i] = static_cast<double>((x[t][i] - mean) / std::sqrt(var + eps));
    }
  }
  return y_LD;
}

TEST(TimestepNorm, reference_and_kernel_follow_the_definition) {
  torch::manual_seed(1);
  const Tensor x = torch::randn({1, 40, 12}) * 2 + 1, mask = torch::rand({1, 40}) < 0.3,
               starts = torch::rand({1, 40}) < 0.1;
  const Tensor expected = by_definition(x[0], 3, 1e-5, mask[0], starts[0]);
  const TimestepNormOptions options{3, 1e-5, {}, mask, starts};
  EXPECT_TRUE(close(ref::timestep_norm(x.to(torch::kFloat64), {}, {}, options).y_BLD[0], expected, 1e-12));
  EXPECT_TRUE(close(timestep_norm(x, {}, {}, options).y_BLD[0], expected, 1e-6));
}

TEST(TimestepNorm, kernel_is_as_close_to_float64_as_the_float32_reference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Inputs in = random_inputs(c);
    const auto exact = run(ref::timestep_norm, in, torch::kFloat64), plain = run(ref::timestep_norm, in);
    const auto fast = run(timestep_norm, in);
    ASSERT_EQ(fast.size(), exact.size());
    for (size_t i = 0; i < exact.size(); ++i) {
      const double floor = 5e-7 * exact[i].abs().max().item<double>();
      EXPECT_LE(worst(fast[i], exact[i]), 2 * worst(plain[i], exact[i]) + floor) << "result " << i;
    }
  }
}

TEST(TimestepNorm, gradients_match_central_differences) {
  const Inputs in = random_inputs({2, 9, 6, 3, true, true, true, true});
  const auto loss = [&](const std::vector<Tensor>& t) {
    TimestepNormOptions options = in.options;
    options.state.mean_BG = t[3], options.state.var_BG = t[4];
    const auto out = ref::timestep_norm(t[0], t[1], t[2], options);
    return (out.y_BLD * in.dy_BLD).sum() + (out.state.mean_BG * in.dmean_BG).sum() +
           (out.state.var_BG * in.dvar_BG).sum();
  };
  const auto to64 = [](const Tensor& t) { return t.to(torch::kFloat64); };
  testing::check_gradients(
      loss, {to64(in.x_BLD), to64(in.weight_D), to64(in.bias_D), in.options.state.mean_BG, in.options.state.var_BG},
      1e-6, 1e-5);
}

/// The sequence in pieces, each continued from the state of the one before.
std::vector<Tensor> in_pieces(Inputs in, const std::vector<int64_t>& lengths) {
  const auto piece = [](const Tensor& t, int64_t at, int64_t n) { return t.defined() ? t.slice(1, at, at + n) : t; };
  const Tensor mask = in.options.padding_mask_BL, starts = in.options.starts_BL;
  std::vector<Tensor> y;
  int64_t at = 0;
  for (const int64_t n : lengths) {
    in.options.padding_mask_BL = piece(mask, at, n), in.options.starts_BL = piece(starts, at, n);
    const auto out = timestep_norm(piece(in.x_BLD, at, n), in.weight_D, in.bias_D, in.options);
    y.push_back(out.y_BLD);
    in.options.state = out.state;
    at += n;
  }
  const TimestepNormState& end = in.options.state;
  return {torch::cat(y, 1), end.count_B, end.mean_BG, end.var_BG};
}

std::vector<int64_t> random_split(int64_t length, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int64_t> lengths;
  for (int64_t left = length; left > 0; left -= lengths.back())
    lengths.push_back(std::min<int64_t>(left, 1 + random() % (seed % 2 == 0 ? 3 : 150)));
  return lengths;
}

TEST(TimestepNorm, any_split_of_the_stream_gives_the_same_bits) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Inputs in = random_inputs(c);
    const auto whole = in_pieces(in, {c.L});
    for (uint32_t seed = 0; seed < 4; ++seed) expect_same_bits(in_pieces(in, random_split(c.L, seed)), whole);
  }
}

TEST(TimestepNorm, gradients_cross_the_pieces_of_a_stream) {
  const Inputs in = random_inputs({2, 60, 24, 4, true, true, true, false});
  const auto gradients = [&](const std::vector<int64_t>& lengths) {
    Inputs copy = in;
    copy.x_BLD = in.x_BLD.clone().set_requires_grad(true);
    const auto out = in_pieces(copy, lengths);
    ((out[0] * in.dy_BLD).sum() + (out[2] * in.dmean_BG).sum() + (out[3] * in.dvar_BG).sum()).backward();
    return copy.x_BLD.grad();
  };
  EXPECT_TRUE(close(gradients({1, 30, 2, 27}), gradients({60}), 1e-6));
}

TEST(TimestepNorm, masked_steps_are_as_if_they_were_not_there) {
  Inputs in = random_inputs({1, 50, 24, 4, true, true, true, false});
  // Masked and valid steps in turns, where the published backward goes wrong, then random ones.
  in.options.padding_mask_BL.slice(1, 0, 20).copy_(torch::arange(20).remainder(2).eq(0).unsqueeze(0));
  const Tensor mask = in.options.padding_mask_BL[0].clone(), kept = mask.logical_not().nonzero().flatten();
  in.x_BLD.index_put_({0, mask}, std::numeric_limits<float>::quiet_NaN());  // must reach nothing
  Inputs dense = in;
  dense.options.padding_mask_BL = Tensor();
  dense.x_BLD = in.x_BLD.index_select(1, kept), dense.dy_BLD = in.dy_BLD.index_select(1, kept);
  for (const Norm norm : {static_cast<Norm>(timestep_norm), static_cast<Norm>(ref::timestep_norm)}) {
    const auto masked = run(norm, in), expected = run(norm, dense);
    ASSERT_EQ(masked.size(), expected.size());
    for (size_t i = 0; i < masked.size(); ++i) {
      const bool steps = i == 0 || i == 3;  // y, dx
      EXPECT_TRUE(
          close(steps ? masked[i].index_select(1, kept) : masked[i], expected[i], norm == timestep_norm ? 1e-7 : 1e-5))
          << i;
      if (!steps) continue;
      EXPECT_EQ(masked[i].index({0, mask}).abs().max().item<float>(), 0) << i;
    }
  }
}

TEST(TimestepNorm, documents_do_not_touch_each_other) {
  Inputs in = random_inputs({1, 300, 128, 8, true, true, false, false});
  constexpr int64_t kStart = 130;
  in.options.starts_BL = torch::zeros({1, 300}, torch::kBool);
  in.options.starts_BL[0][kStart] = true;
  const auto base = run(timestep_norm, in);
  const auto part = [](const Tensor& t, int64_t from, int64_t to) { return t.slice(1, from, to); };

  Inputs other_first = in;
  other_first.x_BLD = in.x_BLD.clone(), other_first.dy_BLD = in.dy_BLD.clone();
  other_first.x_BLD.slice(1, 0, kStart).mul_(1e6).add_(3e7);
  other_first.x_BLD[0][kStart - 1][5] = std::numeric_limits<float>::quiet_NaN();
  other_first.dy_BLD.slice(1, 0, kStart).mul_(-7);
  const auto second = run(timestep_norm, other_first);
  for (const size_t i : {0, 3})
    EXPECT_TRUE(torch::equal(part(second[i], kStart, 300), part(base[i], kStart, 300))) << i;
  for (const size_t i : {1, 2}) EXPECT_TRUE(torch::equal(second[i], base[i])) << i;

  Inputs other_second = in;
  other_second.x_BLD = in.x_BLD.clone();
  other_second.x_BLD.slice(1, kStart, 300).mul_(100).sub_(5e5);
  const auto first = run(timestep_norm, other_second);
  for (const size_t i : {0, 3}) EXPECT_TRUE(torch::equal(part(first[i], 0, kStart), part(base[i], 0, kStart))) << i;
  for (const size_t i : {6, 7}) EXPECT_TRUE(torch::equal(first[i], base[i])) << i;

  const auto alone = timestep_norm(part(in.x_BLD, kStart, 300), in.weight_D, in.bias_D, {8});
  EXPECT_TRUE(torch::equal(alone.y_BLD, part(base[0], kStart, 300)));
  EXPECT_EQ(alone.state.count_B.item<int64_t>(), 300 - kStart);
}

TEST(TimestepNorm, a_huge_mean_costs_no_digits) {
  // Multiples of 1/512 about 16384 are exact in float32; their deviation is a millionth of their mean.
  torch::manual_seed(3);
  Tensor x = torch::randint(-16, 17, {1, 60, 64}).to(torch::kFloat32) / 512 + 16384;
  EXPECT_TRUE(close(timestep_norm(x, {}, {}, {4}).y_BLD[0], by_definition(x[0], 4, 1e-5, {}, {}), 1e-6));
  x.slice(1, 0, 30).copy_(torch::randn({30, 64}));  // ordinary numbers first, then the jump
  EXPECT_TRUE(close(timestep_norm(x, {}, {}, {4}).y_BLD[0], by_definition(x[0], 4, 1e-5, {}, {}), 1e-6));
}

TEST(TimestepNorm, statistics_still_move_after_very_many_steps) {
  for (const int64_t count : {int64_t{1000000000}, (int64_t{1} << 31) - 2, (int64_t{1} << 53) - 2}) {
    constexpr double kMean = 0.37, kVar = 1.9;
    constexpr int64_t kSteps = 5, kFeatures = 4;
    const Tensor x = torch::randn({1, kSteps, kFeatures}) * 1e4 + 3e5;
    const auto number = [](double value) { return torch::full({1, 1}, value, torch::kFloat64); };
    long double mean = 0, square = 0;  // of what the steps add, about the old mean
    for (int64_t t = 0; t < kSteps; ++t) {
      for (int64_t i = 0; i < kFeatures; ++i) {
        const long double c = static_cast<long double>(x[0][t][i].item<float>()) - kMean;
        mean += c / kFeatures, square += c * c / kFeatures;
      }
    }
    const long double n = static_cast<long double>(count) + kSteps, share = static_cast<long double>(count) / n;
    const long double shift = mean / n, var = share * kVar + square / n - shift * shift;
    for (const Norm norm : {static_cast<Norm>(timestep_norm), static_cast<Norm>(ref::timestep_norm)}) {
      const auto state =
          norm(x, {}, {}, {1, 1e-5, {torch::full({1}, count, torch::kInt64), number(kMean), number(kVar)}}).state;
      EXPECT_EQ(state.count_B.item<int64_t>(), count + kSteps);
      EXPECT_NEAR(state.mean_BG.item<double>() - kMean, static_cast<double>(shift),
                  1e-3 * std::abs(static_cast<double>(shift)) + 2e-16);
      EXPECT_NEAR(state.var_BG.item<double>() - kVar, static_cast<double>(var - kVar),
                  1e-3 * std::abs(static_cast<double>(var - kVar)) + 2e-15);
      EXPECT_GT(std::abs(state.var_BG.item<double>() - kVar), count > (int64_t{1} << 40) ? -1.0 : 1.0);
    }
  }
}

TEST(TimestepNorm, without_a_valid_step_the_state_passes_through) {
  const Tensor x = torch::full({1, 3, 4}, std::numeric_limits<float>::quiet_NaN()),
               mask = torch::ones({1, 3}, torch::kBool);
  const Tensor starts = torch::tensor({{false, true, false}});
  const TimestepNormState given{torch::tensor({int64_t{5}}), torch::full({1, 2}, 3.0, torch::kFloat64),
                                torch::full({1, 2}, 7.0, torch::kFloat64)};
  for (const Norm norm : {static_cast<Norm>(timestep_norm), static_cast<Norm>(ref::timestep_norm)}) {
    const auto expect = [&](const TimestepNormState& first, const Tensor& with_starts, int64_t count, double mean,
                            double var) {
      const auto out = norm(x, {}, {}, {2, 1e-5, first, mask, with_starts});
      EXPECT_EQ(out.y_BLD.abs().max().item<float>(), 0);
      EXPECT_EQ(out.state.count_B.item<int64_t>(), count);
      EXPECT_EQ(out.state.mean_BG[0][1].item<double>(), mean);
      EXPECT_EQ(out.state.var_BG[0][1].item<double>(), var);
    };
    expect({}, {}, 0, 0, 1);
    expect(given, {}, 5, 3, 7);
    expect(given, starts, 0, 0, 1);
  }
}

TEST(TimestepNorm, a_state_with_count_zero_may_hold_anything) {
  Inputs in = random_inputs({1, 6, 8, 2, true, true, false, false}), fresh = in;
  in.options.state = {torch::zeros({1}, torch::kInt64), torch::full({1, 2}, std::nan(""), torch::kFloat64),
                      torch::full({1, 2}, std::nan(""), torch::kFloat64)};
  fresh.options.state = {};
  for (const Norm norm : {static_cast<Norm>(timestep_norm), static_cast<Norm>(ref::timestep_norm)}) {
    auto results = run(norm, in);
    for (const size_t i : {6, 7}) EXPECT_EQ(results[i].abs().max().item<double>(), 0);
    results.resize(6);
    expect_same_bits(results, run(norm, fresh));
  }
}

TEST(TimestepNorm, any_number_of_threads_gives_the_same_bits) {
  const int threads = at::get_num_threads();
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Inputs in = random_inputs(c);
    at::set_num_threads(1);
    const auto one = run(timestep_norm, in);
    for (const int n : {2, 5}) {
      at::set_num_threads(n);
      expect_same_bits(run(timestep_norm, in), one);
    }
    at::set_num_threads(threads);
  }
}

TEST(TimestepNorm, layouts_and_types) {
  const Inputs in = random_inputs({2, 20, 16, 4, true, true, false, false});
  const auto expected = timestep_norm(in.x_BLD, in.weight_D, in.bias_D, in.options);
  const Tensor strided = in.x_BLD.transpose(1, 2).contiguous().transpose(1, 2);
  ASSERT_FALSE(strided.is_contiguous());
  EXPECT_TRUE(torch::equal(timestep_norm(strided, in.weight_D, in.bias_D, in.options).y_BLD, expected.y_BLD));

  const auto reduced = timestep_norm(in.x_BLD.to(torch::kBFloat16), in.weight_D, in.bias_D, in.options);
  EXPECT_EQ(reduced.y_BLD.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(reduced.state.mean_BG.scalar_type(), torch::kFloat64);
  EXPECT_TRUE(close(reduced.y_BLD, expected.y_BLD, 0.01));

  const auto exact = timestep_norm(in.x_BLD.to(torch::kFloat64), in.weight_D, in.bias_D, in.options);
  EXPECT_EQ(exact.y_BLD.scalar_type(), torch::kFloat64);
  EXPECT_TRUE(close(expected.y_BLD, exact.y_BLD, 1e-6));

  TimestepNormOptions options = in.options;  // a float32 state gets float32 gradients
  options.state.mean_BG = options.state.mean_BG.to(torch::kFloat32).set_requires_grad(true);
  options.state.var_BG = options.state.var_BG.to(torch::kFloat32);
  timestep_norm(in.x_BLD, {}, {}, options).state.mean_BG.sum().backward();
  EXPECT_EQ(options.state.mean_BG.grad().scalar_type(), torch::kFloat32);
}

TEST(TimestepNorm, wrong_arguments_are_named) {
  const Tensor x = torch::randn({2, 3, 8}), one = torch::ones({2, 2});
  const Tensor count = torch::ones({2}, torch::kInt64);
  const auto expect_error = [&](const char* text, const Tensor& input, const Tensor& weight,
                                const TimestepNormOptions& options) {
    try {
      timestep_norm(input, weight, {}, options);
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find("[timestep_norm] "), 0U) << error.what();
    }
  };
  expect_error("3 axes", x[0], {}, {2});
  expect_error("floating point", x.to(torch::kInt64), {}, {2});
  expect_error("floating point", {}, {}, {2});
  expect_error("3 groups", x, {}, {3});
  expect_error("0 groups", x, {}, {0});
  expect_error("eps", x, {}, {2, 0.0});
  expect_error("weight must be [8]", x, torch::ones({7}), {2});
  expect_error("given together", x, {}, {2, 1e-5, {count, one, {}}});
  expect_error("given together", x, {}, {2, 1e-5, {{}, one, one}});
  expect_error("mean must be [2,2]", x, {}, {2, 1e-5, {count, torch::ones({2, 3}), one}});
  expect_error("count must be int64", x, {}, {2, 1e-5, {one[0], one, one}});
  expect_error("must not be negative, got -1 for sequence 0", x, {}, {2, 1e-5, {-count, one, one}});
  expect_error("float64 or float32", x, {}, {2, 1e-5, {count, one.to(torch::kBFloat16), one}});
  expect_error("padding_mask must be [2,3]", x, {}, {2, 1e-5, {}, torch::zeros({2, 4}, torch::kBool)});
  expect_error("starts must be bool", x, {}, {2, 1e-5, {}, {}, torch::zeros({2, 3})});
  expect_error("one step or more", x.slice(1, 0, 0), {}, {2});
}

}  // namespace
}  // namespace megalodon::ops::timestep_norm_test
