#include "ops/gated_silu/gated_silu.h"

#include <cmath>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::gated_silu_test {
namespace {

using testing::check_gradients;
using testing::close;

struct Result {
  Tensor h, da, db;
};

Result run(const Tensor& a, const Tensor& b, const Tensor& dh) {
  const Tensor x = a.detach().requires_grad_(), y = b.defined() ? b.detach().requires_grad_() : b;
  const Tensor h = gated_silu(x, y);
  if (!b.defined()) return {h, torch::autograd::grad({h}, {x}, {dh})[0], Tensor()};
  const auto gradients = torch::autograd::grad({h}, {x, y}, {dh});
  return {h, gradients[0], gradients[1]};
}

Tensor exact(const Tensor& x) {
  return x.to(torch::kFloat64);
}

TEST(GatedSilu, AgreesWithTheFloat64Reference) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{}, {0}, {1}, {3}, {31}, {2, 3, 33}, {2, 4099}, {16385}, {3, 16384}}) {
    SCOPED_TRACE(c10::str("shape ", shape));
    torch::manual_seed(5);
    const Tensor a = 4 * torch::randn(shape), b = torch::randn(shape), dh = torch::randn(shape);
    const Result gated = run(a, b, dh), gated64 = run(exact(a), exact(b), exact(dh));
    EXPECT_TRUE(close(gated.h, gated64.h, 3e-7));
    EXPECT_TRUE(close(gated.da, gated64.da, 3e-7));
    EXPECT_TRUE(close(gated.db, gated64.db, 3e-7));
    const Result plain = run(a, {}, dh), plain64 = run(exact(a), {}, exact(dh));
    EXPECT_TRUE(close(plain.h, plain64.h, 3e-7));
    EXPECT_TRUE(close(plain.da, plain64.da, 3e-7));
  }
}

// Elementwise and relative, which a bound on the largest magnitude would not see.
TEST(GatedSilu, SmallValuesKeepTheirDigits) {
  const Tensor a = torch::linspace(-80, 80, 4001), h = gated_silu(a, {});
  const Tensor expected = ref::gated_silu(exact(a), {});
  EXPECT_LT(((exact(h) - expected) / expected.abs().clamp_min(1e-36)).abs().max().item<double>(), 1e-6);
}

TEST(GatedSilu, ExtremesAreFiniteAndNotANumberIsNotLost) {
  const Tensor a = torch::tensor({-1e30F, -200.0F, 0.0F, 200.0F, 1e30F, NAN});
  const Result r = run(a, {}, torch::ones({6}));
  EXPECT_TRUE(close(r.h.narrow(0, 0, 5), torch::tensor({0.0F, 0.0F, 0.0F, 200.0F, 1e30F}), 0));
  EXPECT_TRUE(close(r.da.narrow(0, 0, 5), torch::tensor({0.0F, 0.0F, 0.5F, 1.0F, 1.0F}), 0));
  EXPECT_TRUE(std::isnan(r.h[5].item<float>()));
  EXPECT_TRUE(std::isnan(r.da[5].item<float>()));
}

TEST(GatedSilu, Float64GradientsMatchFiniteDifferences) {
  const auto options = torch::dtype(torch::kFloat64);
  check_gradients([](const std::vector<Tensor>& v) { return gated_silu(v[0], v[1]).square().sum(); },
                  {2 * torch::randn({7}, options), torch::randn({7}, options)});
  check_gradients([](const std::vector<Tensor>& v) { return gated_silu(v[0], {}).square().sum(); },
                  {2 * torch::randn({7}, options)});
}

TEST(GatedSilu, TakesAnyStrides) {
  const Tensor a = torch::randn({5, 33}), b = torch::randn({5, 33}), dh = torch::randn({5, 33});
  const auto turned = [](const Tensor& x) { return x.t().contiguous().t(); };
  const Result expected = run(a, b, dh), got = run(turned(a), turned(b), turned(dh));
  EXPECT_TRUE(torch::equal(got.h, expected.h));
  EXPECT_TRUE(torch::equal(got.da, expected.da));
  EXPECT_TRUE(torch::equal(got.db, expected.db));
  // The two halves of one matrix product, as a feed-forward layer may pass them.
  const Tensor both = torch::cat({a, b}, 1);
  EXPECT_TRUE(torch::equal(gated_silu(both.narrow(1, 0, 33), both.narrow(1, 33, 33)), expected.h));
}

TEST(GatedSilu, OnlyOneInputMayNeedAGradient) {
  const Tensor a = torch::randn({9}), b = torch::randn({9}), dh = torch::randn({9});
  const Result expected = run(a, b, dh);
  const Tensor x = a.clone().requires_grad_(), y = b.clone().requires_grad_();
  EXPECT_TRUE(torch::equal(torch::autograd::grad({gated_silu(x, b)}, {x}, {dh})[0], expected.da));
  EXPECT_TRUE(torch::equal(torch::autograd::grad({gated_silu(a, y)}, {y}, {dh})[0], expected.db));
}

TEST(GatedSilu, SameBitsForAnyNumberOfThreads) {
  const Tensor a = torch::randn({100003}), b = torch::randn({100003}), dh = torch::randn({100003});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Result one = run(a, b, dh);
  at::set_num_threads(2);
  const Result two = run(a, b, dh);
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(one.h, two.h));
  EXPECT_TRUE(torch::equal(one.da, two.da));
  EXPECT_TRUE(torch::equal(one.db, two.db));
}

// Of bfloat16 numbers, or of a bfloat16 and a float32 tensor: as exact as the type of each result allows.
TEST(GatedSilu, TakesBfloat16) {
  torch::manual_seed(9);
  constexpr double kRounding = 1.0 / 256;  // half a unit of the last of 8 bits
  for (const int64_t size : {1, 7, 64, 40001}) {
    const Tensor a = torch::randn({size}).to(torch::kBFloat16), dh = torch::randn({size}).to(torch::kBFloat16);
    for (const auto b_type : {torch::kBFloat16, torch::kFloat32}) {
      const Tensor b = torch::randn({size}).to(b_type);
      const auto run = [&](const auto& op, bool wide) {
        const auto leaf = [&](const Tensor& t) { return (wide ? t.to(torch::kFloat64) : t).detach().requires_grad_(); };
        const Tensor x = leaf(a), y = leaf(b), h = op(x, y);
        const auto gradients = torch::autograd::grad({h}, {x, y}, {dh.to(h.scalar_type())});
        return std::vector<Tensor>{h.detach(), gradients[0], gradients[1]};
      };
      const auto got = run([](const Tensor& x, const Tensor& y) { return gated_silu(x, y); }, false);
      const auto exact = run([](const Tensor& x, const Tensor& y) { return ref::gated_silu(x, y); }, true);
      EXPECT_EQ(got[0].scalar_type(), torch::kBFloat16);
      EXPECT_EQ(got[1].scalar_type(), torch::kBFloat16);
      EXPECT_EQ(got[2].scalar_type(), b_type);
      for (size_t i = 0; i < 3; ++i)
        EXPECT_LE(((got[i] - exact[i]).abs() / (exact[i].abs() + 1e-30)).max().item<double>(),
                  got[i].scalar_type() == torch::kFloat32 ? 1e-5 : kRounding * 1.001);
    }
  }
}

TEST(GatedSilu, SaysWhatIsWrong) {
  const Tensor a = torch::ones({4, 3});
  EXPECT_THROW(gated_silu(a.to(torch::kInt64), {}), Error);
  EXPECT_THROW(gated_silu(a, a.to(torch::kFloat64)), Error);
  try {
    gated_silu(a, torch::ones({3, 4}));
    FAIL() << "accepted a wrong shape";
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[gated_silu] b must be Float [4, 3] on cpu like a, got Float [3, 4] on cpu");
  }
}

}  // namespace
}  // namespace megalodon::ops::gated_silu_test
