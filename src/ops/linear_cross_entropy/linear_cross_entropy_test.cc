#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include <limits>

#include "base/check.h"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"
#include "ops/testing.h"

namespace megalodon::ops::linear_cross_entropy_test {
namespace {

using testing::check_gradients;
using testing::close;

struct Case {
  std::vector<int64_t> leading;
  int64_t D, V;
};

// Odd sizes, one token, no token, one class, one block and several blocks (512 tokens at least in each).
const std::vector<Case> kCases = {{{1}, 1, 1},          {{2, 3}, 5, 7},    {{0}, 4, 5},
                                  {{}, 6, 19},          {{3, 43}, 8, 1},   {{300}, 16, 20011},
                                  {{2, 4099}, 12, 257}, {{129}, 33, 9001}, {{600}, 9, 5003}};

struct Inputs {
  Tensor x, w, targets, dnll;
};

Inputs make_inputs(const Case& c) {
  torch::manual_seed(7);
  auto shape = c.leading;
  shape.push_back(c.D);
  Inputs in{torch::randn(shape), torch::randn({c.V, c.D}), torch::randint(c.V, c.leading, torch::kInt64),
            torch::randn(c.leading)};
  in.targets.masked_fill_(torch::rand(c.leading) < 0.2, kIgnoredTarget);
  return in;
}

struct Result {
  Tensor nll, dx, dw;
};

template <class Op>
Result run(const Op& op, const Inputs& in, torch::ScalarType type) {
  const Tensor x = in.x.to(type).detach().requires_grad_(), w = in.w.to(type).detach().requires_grad_();
  const Tensor nll = op(x, w, in.targets);
  const auto gradients = torch::autograd::grad({nll}, {x, w}, {in.dnll.to(nll.scalar_type())});
  return {nll, gradients[0], gradients[1]};
}

Tensor blocks(const Tensor& x, const Tensor& w, const Tensor& targets) {
  return linear_cross_entropy(x, w, targets);
}

TEST(LinearCrossEntropy, AgreesWithTheFloat64Reference) {
  for (const Case& c : kCases) {
    SCOPED_TRACE(c10::str("leading ", c.leading, " D ", c.D, " V ", c.V));
    const Inputs in = make_inputs(c);
    const Result got = run(blocks, in, torch::kFloat32);
    const Result expected = run(ref::linear_cross_entropy, in, torch::kFloat64);
    EXPECT_EQ(got.nll.scalar_type(), torch::kFloat32);
    EXPECT_TRUE(close(got.nll, expected.nll, 1e-6, 1e-6));
    EXPECT_TRUE(close(got.dx, expected.dx, 3e-6));
    EXPECT_TRUE(close(got.dw, expected.dw, 3e-6));
  }
}

TEST(LinearCrossEntropy, BFloat16StaysNearTheReferenceOnTheSameValues) {
  Inputs in = make_inputs({{2, 550}, 16, 9001});  // three blocks
  in.x = in.x.to(torch::kBFloat16);
  in.w = (0.2 * in.w).to(torch::kBFloat16);
  const Result got = run(blocks, in, torch::kBFloat16);
  const Result expected = run(ref::linear_cross_entropy, in, torch::kFloat64);
  EXPECT_EQ(got.nll.scalar_type(), torch::kFloat32);
  EXPECT_EQ(got.dw.scalar_type(), torch::kBFloat16);
  // Logits and their gradients are rounded to 8 bits on the way through the matrix products.
  EXPECT_TRUE(close(got.nll, expected.nll, 4e-3));
  EXPECT_TRUE(close(got.dx, expected.dx, 1.5e-2));
  EXPECT_TRUE(close(got.dw, expected.dw, 1.5e-2));
}

TEST(LinearCrossEntropy, Float64GradientsMatchFiniteDifferences) {
  const Inputs in = make_inputs({{2, 3}, 4, 5});
  check_gradients(
      [&](const std::vector<Tensor>& v) {
        return (linear_cross_entropy(v[0], v[1], in.targets) * in.dnll.to(torch::kFloat64)).sum();
      },
      {in.x.to(torch::kFloat64), in.w.to(torch::kFloat64)});
}

TEST(LinearCrossEntropy, TakesAnyStrides) {
  const Case c{{5, 40}, 24, 31};
  Inputs in = make_inputs(c);
  const Result expected = run(blocks, in, torch::kFloat32);
  in.x = in.x.transpose(0, 1).contiguous().transpose(0, 1);
  in.w = in.w.t().contiguous().t();
  in.targets = in.targets.t().contiguous().t();
  in.dnll = in.dnll.t().contiguous().t();
  const Result got = run(blocks, in, torch::kFloat32);
  EXPECT_TRUE(close(got.nll, expected.nll, 1e-6));
  EXPECT_TRUE(close(got.dx, expected.dx, 1e-6));
  EXPECT_TRUE(close(got.dw, expected.dw, 1e-6));
}

TEST(LinearCrossEntropy, GivesOnlyTheGradientsAskedFor) {
  const Inputs in = make_inputs({{6}, 4, 9});
  const Result expected = run(blocks, in, torch::kFloat32);
  const Tensor x = in.x.clone().requires_grad_(), w = in.w.clone().requires_grad_();
  const Tensor dx = torch::autograd::grad({linear_cross_entropy(x, in.w, in.targets)}, {x}, {in.dnll})[0];
  const Tensor dw = torch::autograd::grad({linear_cross_entropy(in.x, w, in.targets)}, {w}, {in.dnll})[0];
  EXPECT_TRUE(torch::equal(dx, expected.dx));
  EXPECT_TRUE(torch::equal(dw, expected.dw));
}

TEST(LinearCrossEntropy, IgnoredTargetsGiveZeroLossAndNoGradient) {
  Inputs in = make_inputs({{7}, 5, 11});
  in.targets.fill_(kIgnoredTarget);
  const Result all = run(blocks, in, torch::kFloat32);
  EXPECT_EQ(all.nll.abs().max().item<float>(), 0);
  EXPECT_EQ(all.dx.abs().max().item<float>(), 0);
  EXPECT_EQ(all.dw.abs().max().item<float>(), 0);
}

TEST(LinearCrossEntropy, LargeLogitsDoNotOverflow) {
  const Tensor x = torch::tensor({{300.0F}, {-300.0F}}), w = torch::tensor({{1.0F}, {-1.0F}, {0.5F}});
  const Tensor nll = linear_cross_entropy(x, w, torch::tensor({1, 1}));
  EXPECT_TRUE(close(nll, torch::tensor({600.0F, 0.0F}), 1e-6));
}

TEST(LinearCrossEntropy, NotANumberIsNotLost) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Inputs in = make_inputs({{4}, 3, 50});
  in.targets.copy_(torch::tensor({1, 2, 3, 4}));
  in.x.index_put_({1, 0}, nan);
  const Result got = run(blocks, in, torch::kFloat32);
  EXPECT_TRUE(torch::equal(got.nll.isnan(), torch::tensor({false, true, false, false})));
  EXPECT_TRUE(torch::equal(got.dx.isnan().all(1), torch::tensor({false, true, false, false})));
}

TEST(LinearCrossEntropy, RowKernelsGiveTheSameBitsForAnyNumberOfThreads) {
  const int64_t rows = 301, vocabulary = 1037;
  torch::manual_seed(3);
  const Tensor logits = 5 * torch::randn({rows, vocabulary}), targets = torch::randint(vocabulary, {rows});
  const Tensor dnll = torch::randn({rows});
  const auto both = [&](int threads) {
    const int before = at::get_num_threads();
    at::set_num_threads(threads);
    const Tensor nll = torch::empty({rows}), log_sum = torch::empty({rows}), gradient = logits.clone();
    cross_entropy_forward_cpu({logits.data_ptr<float>(), targets.data_ptr<int64_t>(), nll.data_ptr<float>(),
                               log_sum.data_ptr<float>(), rows, vocabulary});
    cross_entropy_backward_cpu({.logits = gradient.data_ptr<float>(),
                                .targets = targets.data_ptr<int64_t>(),
                                .log_sum = log_sum.data_ptr<float>(),
                                .dnll = dnll.data_ptr<float>(),
                                .dlogits = gradient.data_ptr<float>(),
                                .dlogits_type = NumberType::kFloat32,
                                .rows = rows,
                                .vocabulary = vocabulary});
    at::set_num_threads(before);
    return std::vector<Tensor>{nll, gradient};
  };
  const auto one = both(1), two = both(2);
  EXPECT_TRUE(torch::equal(one[0], two[0]));
  EXPECT_TRUE(torch::equal(one[1], two[1]));
}

template <class Call>
std::string error_of(const Call& call) {
  try {
    call();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

TEST(LinearCrossEntropy, SaysWhatIsWrong) {
  const Tensor x = torch::randn({2, 3, 4}), w = torch::randn({5, 4}), targets = torch::zeros({2, 3}, torch::kInt64);
  const auto expect = [](const std::string& part, const Tensor& x, const Tensor& w, const Tensor& targets) {
    const std::string message = error_of([&] { linear_cross_entropy(x, w, targets); });
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  Tensor bad = targets.clone();
  bad[1][2] = 5;
  expect("[0, 5) or -100 (ignored), got 5 at [1, 2]", x, w, bad);
  bad[0][1] = -1;
  expect("got -1 at [0, 1]", x, w, bad);
  expect("D = 3, got [2, 3, 4]", x, torch::randn({5, 3}), targets);
  expect("[V, D]", x, torch::randn({5}), targets);
  expect("[V, D]", x, torch::randn({0, 4}), targets);
  expect("int64", x, w, targets.to(torch::kInt32));
  expect("x [2, 3, 4], targets [3, 2]", x, w, targets.t());
  expect("one floating dtype", x, w.to(torch::kFloat64), targets);
}

}  // namespace
}  // namespace megalodon::ops::linear_cross_entropy_test
