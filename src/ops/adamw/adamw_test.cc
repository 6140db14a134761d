#include "ops/adamw/adamw.h"

#include <torch/optim/adamw.h>

#include <cmath>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::adamw_test {
namespace {

using testing::close;

struct State {
  Tensor parameter, exp_avg, exp_avg_sq;
};

State make_state(const std::vector<int64_t>& shape) {
  torch::manual_seed(13);
  return {torch::randn(shape), 0.1 * torch::randn(shape), 0.01 * torch::rand(shape)};
}

State as(const State& s, torch::ScalarType type) {
  return {s.parameter.to(type, false, true), s.exp_avg.to(type, false, true), s.exp_avg_sq.to(type, false, true)};
}

AdamWStep settings(int64_t step) {
  return {.lr = 3e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .step = step, .gradient_scale = 0.7};
}

constexpr double kDecay = 0.1;

AdamWTensors with_gradient(const State& s, const Tensor& gradient) {
  return {s.parameter, gradient, s.exp_avg, s.exp_avg_sq, kDecay};
}

void update(const State& s, const Tensor& gradient, const AdamWStep& step) {
  adamw({with_gradient(s, gradient)}, step);
}

// The specification against numbers worked by hand: first step from zero moments, g = 2.
TEST(AdamW, ReferenceIsTheUpdateOfThePaper) {
  const auto scalar = [](double v) { return torch::full({1}, v, torch::kFloat64); };
  const State s{scalar(1), scalar(0), scalar(0)};
  ref::adamw({s.parameter, scalar(4), s.exp_avg, s.exp_avg_sq, /*decay=*/0.2},
             {.lr = 0.1, .beta1 = 0.9, .beta2 = 0.99, .eps = 0.5, .step = 1, .gradient_scale = 0.5});
  EXPECT_NEAR(s.exp_avg.item<double>(), 0.2, 1e-15);
  EXPECT_NEAR(s.exp_avg_sq.item<double>(), 0.04, 1e-15);
  EXPECT_NEAR(s.parameter.item<double>(), 0.98 - 0.1 * 2 / (2 + 0.5), 1e-14);
}

// In float64, where 50 steps of rounding leave no room for another formula; float32 steps are compared below one by
// one.
TEST(AdamW, FollowsTorchsAdamWForManySteps) {
  const auto f64 = torch::kFloat64;
  const State s{torch::randn({37, 11}, f64), torch::zeros({37, 11}, f64), torch::zeros({37, 11}, f64)};
  const Tensor theirs = s.parameter.clone().requires_grad_();
  torch::optim::AdamW optimizer({theirs},
                                torch::optim::AdamWOptions(3e-3).betas({0.9, 0.95}).eps(1e-8).weight_decay(0.1));
  for (int64_t t = 1; t <= 50; ++t) {
    const Tensor gradient = torch::randn({37, 11}, f64);
    theirs.mutable_grad() = 0.7 * gradient;
    optimizer.step();
    update(s, gradient, settings(t));
  }
  EXPECT_TRUE(close(s.parameter, theirs, 1e-14));
}

TEST(AdamW, AgreesWithTheFloat64Reference) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{}, {0}, {1}, {31}, {3, 4099}, {16384}, {3, 16385}}) {
    for (const int64_t t : {1, 2, 1000, 1000000}) {
      SCOPED_TRACE(c10::str("shape ", shape, " step ", t));
      const State initial = make_state(shape), got = as(initial, torch::kFloat32), exact = as(initial, torch::kFloat64);
      const Tensor gradient = torch::randn(shape);
      update(got, gradient, settings(t));
      ref::adamw(with_gradient(exact, gradient), settings(t));
      EXPECT_TRUE(close(got.parameter, exact.parameter, 1.5e-7));
      EXPECT_TRUE(close(got.exp_avg, exact.exp_avg, 1.5e-7));
      EXPECT_TRUE(close(got.exp_avg_sq, exact.exp_avg_sq, 1.5e-7));
    }
  }
}

TEST(AdamW, Float64RunsOnTheReference) {
  const State a = as(make_state({9}), torch::kFloat64), b = as(a, torch::kFloat64);
  const Tensor gradient = torch::randn({9}, torch::kFloat64);
  update(a, gradient, settings(3));
  ref::adamw(with_gradient(b, gradient), settings(3));
  EXPECT_TRUE(torch::equal(a.parameter, b.parameter));
}

TEST(AdamW, TakesGradientsOfAnyStridesAndDtype) {
  const State a = make_state({8, 9}), b = as(a, torch::kFloat32);
  const Tensor gradient = torch::randn({9, 8}).to(torch::kBFloat16).t();
  update(a, gradient, settings(3));
  update(b, gradient.to(torch::kFloat32).contiguous(), settings(3));
  EXPECT_TRUE(torch::equal(a.parameter, b.parameter));
}

TEST(AdamW, AListIsUpdatedLikeItsTensorsOneByOne) {
  std::vector<AdamWTensors> list;
  std::vector<State> apart;
  for (const std::vector<int64_t>& shape : std::vector<std::vector<int64_t>>{{3, 16385}, {0}, {7}}) {
    const State s = make_state(shape);
    const double decay = 0.1 * static_cast<double>(list.size());
    list.push_back({s.parameter, torch::randn(shape), s.exp_avg, s.exp_avg_sq, decay});
    apart.push_back(as(s, torch::kFloat32));
    adamw({{apart.back().parameter, list.back().gradient, apart.back().exp_avg, apart.back().exp_avg_sq, decay}},
          settings(4));
  }
  adamw(list, settings(4));
  for (size_t i = 0; i < list.size(); ++i) {
    EXPECT_TRUE(torch::equal(list[i].parameter, apart[i].parameter));
    EXPECT_TRUE(torch::equal(list[i].exp_avg, apart[i].exp_avg));
    EXPECT_TRUE(torch::equal(list[i].exp_avg_sq, apart[i].exp_avg_sq));
  }
  adamw({}, settings(4));  // no parameter has a gradient
}

TEST(AdamW, AutogradNoticesTheUpdate) {
  const State s = make_state({4});
  s.parameter.requires_grad_();
  const Tensor y = s.parameter.square().sum();  // saves the parameter
  update(s, torch::ones({4}), settings(1));
  EXPECT_THROW(y.backward(), c10::Error);
}

TEST(AdamW, SameBitsForAnyNumberOfThreads) {
  const State one = make_state({100003}), two = as(one, torch::kFloat32);
  const Tensor gradient = torch::randn({100003});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  update(one, gradient, settings(5));
  const double sum_one = sum_of_squares(gradient);
  at::set_num_threads(2);
  update(two, gradient, settings(5));
  const double sum_two = sum_of_squares(gradient);
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(one.parameter, two.parameter));
  EXPECT_TRUE(torch::equal(one.exp_avg, two.exp_avg));
  EXPECT_TRUE(torch::equal(one.exp_avg_sq, two.exp_avg_sq));
  EXPECT_EQ(sum_one, sum_two);
}

TEST(AdamW, SaysWhatIsWrong) {
  const State s = make_state({4, 3});
  const Tensor g = torch::ones({4, 3});
  AdamWStep step = settings(1);
  const auto refused = [&](const AdamWTensors& tensors) { EXPECT_THROW(adamw({tensors}, step), Error); };
  refused({s.parameter, torch::ones({3, 4}), s.exp_avg, s.exp_avg_sq});
  refused({s.parameter, g.to(torch::kInt64), s.exp_avg, s.exp_avg_sq});
  refused({s.parameter, g, torch::ones({12}), s.exp_avg_sq});
  refused({s.parameter, g, s.exp_avg, s.exp_avg_sq.to(torch::kFloat64)});
  refused({s.parameter, g, torch::ones({3, 4}).t(), s.exp_avg_sq});
  refused({s.parameter.to(torch::kBFloat16), g, s.exp_avg, s.exp_avg_sq});
  step.step = 0;
  EXPECT_THROW(update(s, g, step), Error);
  step = settings(1);
  step.beta2 = 1;
  EXPECT_THROW(update(s, g, step), Error);
}

TEST(SumOfSquares, IsExactToFloat64) {
  for (const int64_t n : {0, 1, 15, 17, 16384, 16385, 100003}) {
    SCOPED_TRACE(n);
    const Tensor x = torch::randn({n});
    const double expected = x.to(torch::kFloat64).square().sum().item<double>();
    EXPECT_NEAR(sum_of_squares(x), expected, 1e-13 * expected);
    EXPECT_NEAR(sum_of_squares(x.to(torch::kFloat64)), expected, 1e-13 * expected);
  }
}

TEST(SumOfSquares, OfAListIsTheSumInItsOrder) {
  const std::vector<Tensor> list = {torch::randn({100003}), torch::randn({0}), torch::randn({7, 31})};
  double expected = 0;
  for (const Tensor& x : list) expected += sum_of_squares(x);
  EXPECT_EQ(sum_of_squares(list), expected);
  EXPECT_EQ(sum_of_squares(std::vector<Tensor>{}), 0);
}

TEST(SumOfSquares, TakesAnyStridesAndBFloat16) {
  const Tensor x = torch::randn({40, 7}).to(torch::kBFloat16).t();
  EXPECT_EQ(sum_of_squares(x), sum_of_squares(x.to(torch::kFloat32).contiguous()));
}

TEST(SumOfSquares, LargeAndBadValuesShow) {
  EXPECT_DOUBLE_EQ(sum_of_squares(torch::full({2}, 1e30F)), 2 * std::pow(static_cast<double>(1e30F), 2));
  EXPECT_TRUE(std::isnan(sum_of_squares(torch::full({20}, NAN))));
  EXPECT_TRUE(std::isinf(sum_of_squares(torch::full({1}, INFINITY))));
}

}  // namespace
}  // namespace megalodon::ops::adamw_test
