#include "nn/linear.h"

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::nn {
namespace {

struct Result {
  Tensor y, dx, dw, db;
};

/// y and its gradients for the cotangent dy, with inputs of `type`, in float64.
Result run(const std::function<Tensor(const Tensor&, const Tensor&, const Tensor&)>& op, const Result& in,
           torch::ScalarType type) {
  const auto leaf = [&](const Tensor& t) { return t.to(type).detach().requires_grad_(); };
  const Tensor x = leaf(in.dx), w = leaf(in.dw), b = leaf(in.db);
  const Tensor y = op(x, w, b);
  const auto gradients = torch::autograd::grad({y}, {x, w, b}, {in.y.to(y.scalar_type())});
  const auto wide = [](const Tensor& t) { return t.detach().to(torch::kFloat64); };
  return {wide(y), wide(gradients[0]), wide(gradients[1]), wide(gradients[2])};
}

/// x, w, b and the cotangent of y, in the places of their results.
Result make_inputs(int64_t tokens, int64_t in, int64_t out) {
  torch::manual_seed(5);
  return {torch::randn({2, tokens, out}), torch::randn({2, tokens, in}), torch::randn({out, in}), torch::randn({out})};
}

Tensor in_bfloat16(const Tensor& x, const Tensor& w, const Tensor& b) {
  return linear(x, w, b, Precision::kBfloat16);
}

double error(const Tensor& got, const Tensor& expected) {
  return (got - expected).norm().item<double>();
}

TEST(Linear, Bfloat16IsAtMostTwiceAsFarFromFloat64AsThePlainComposition) {
  const auto plain = [](const Tensor& x, const Tensor& w, const Tensor& b) { return torch::linear(x, w, b); };
  for (const auto& [tokens, in, out] :
       std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {1, 512, 4}, {3, 7, 5}, {130, 96, 65}, {64, 1024, 128}}) {
    SCOPED_TRACE(c10::str(tokens, " tokens ", in, " to ", out));
    const Result inputs = make_inputs(tokens, in, out);
    const Result exact = run(plain, inputs, torch::kFloat64), low = run(plain, inputs, torch::kBFloat16);
    const Result got = run(in_bfloat16, inputs, torch::kFloat32);
    for (const auto part : {&Result::y, &Result::dx, &Result::dw, &Result::db}) {
      const double floor = 1e-6 * (exact.*part).norm().item<double>();
      EXPECT_LE(error(got.*part, exact.*part), 2 * error(low.*part, exact.*part) + floor);
    }
    EXPECT_LE(error(got.db, exact.db), 1e-6 * exact.db.norm().item<double>()) << "sums of gradients are float32";
  }
}

TEST(Linear, Float32IsThePlainComposition) {
  const Result in = make_inputs(9, 8, 7);
  EXPECT_TRUE(torch::equal(linear(in.dx, in.dw, in.db, Precision::kFloat32), torch::linear(in.dx, in.dw, in.db)));
}

TEST(Linear, TakesAnyLeadingShapeAndNoBias) {
  torch::manual_seed(6);
  const Tensor w = torch::randn({5, 4}), x = torch::randn({2, 3, 4});
  const Tensor y = in_bfloat16(x.transpose(0, 1), w, {});
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{3, 2, 5}));
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(torch::equal(y.transpose(0, 1), in_bfloat16(x, w, {})));
  EXPECT_TRUE(torch::equal(y[1][0], in_bfloat16(x[0][1], w, {})));
  EXPECT_EQ(in_bfloat16(torch::randn({0, 4}), w, {}).sizes(), (std::vector<int64_t>{0, 5}));
}

TEST(Linear, GivesOnlyTheGradientsAskedFor) {
  const Result in = make_inputs(3, 8, 7);
  const Tensor w = in.dw.clone().requires_grad_();
  in_bfloat16(in.dx, w, {}).sum().backward();
  EXPECT_TRUE(w.grad().defined());
  EXPECT_FALSE(in.dx.grad().defined());
}

TEST(Linear, RefusesWhatItCannotDo) {
  const Tensor x = torch::randn({3, 4}).requires_grad_(), w = torch::randn({5, 4});
  EXPECT_THROW(in_bfloat16(x.to(torch::kFloat64), w.to(torch::kFloat64), {}), Error);
  const Tensor y = in_bfloat16(x, w, {}).square().sum();
  EXPECT_THROW(torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true), Error);
}

}  // namespace
}  // namespace megalodon::nn
