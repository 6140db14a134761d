#include "ops/dropout/dropout.h"

#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/philox.h"
#include "ops/testing.h"

namespace megalodon::ops::dropout_test {
namespace {

using testing::check_gradients;
using testing::close;

TEST(Dropout, AgreesWithTheFloat64Reference) {
  for (const std::vector<int64_t>& shape :
       std::vector<std::vector<int64_t>>{{}, {0}, {1}, {3}, {4}, {7, 31}, {2, 4099}, {5, 16384}, {16385}}) {
    SCOPED_TRACE(c10::str("shape ", shape));
    const Tensor x = torch::randn(shape).requires_grad_(), dy = torch::randn(shape);
    const Tensor y = ops::dropout(x, 0.3, 11), expected = ref::dropout(x.detach().to(torch::kFloat64), 0.3, 11);
    EXPECT_TRUE(close(y, expected, 1e-7));
    EXPECT_TRUE(close(torch::autograd::grad({y}, {x}, {dy})[0], ref::dropout(dy.to(torch::kFloat64), 0.3, 11), 1e-7));
  }
}

// Pins the mask to the documented stream: a change would silently break resuming from a checkpoint.
TEST(Dropout, MaskIsThePhiloxStreamOfTheKey) {
  const uint64_t key = 0x9000000000000001;  // also beyond int64
  const Tensor y = ops::dropout(torch::ones({1003}), 0.25, key);
  for (int64_t i = 0; i < y.numel(); ++i) {
    const float u = philox_uniform(philox(key, static_cast<uint64_t>(i) / 4)[i % 4]);
    ASSERT_EQ(y[i].item<float>(), u >= 0.25F ? 1.0F / 0.75F : 0.0F) << i;
  }
}

TEST(Dropout, KeepsOneMinusPOfTheElementsAndTheMean) {
  for (const double p : {0.05, 0.5, 0.9}) {
    const int64_t n = 200000;
    const Tensor y = ops::dropout(torch::ones({n}), p, 5);
    const double sigma = std::sqrt(p * (1 - p) / static_cast<double>(n));
    EXPECT_NEAR(y.ne(0).to(torch::kFloat64).mean().item<double>(), 1 - p, 5 * sigma);
    EXPECT_NEAR(y.mean().item<double>(), 1, 5 * sigma / (1 - p));
  }
}

TEST(Dropout, KeysAreIndependent) {
  const Tensor x = torch::ones({100000});
  const Tensor both = ops::dropout(x, 0.5, 1).ne(0).logical_and(ops::dropout(x, 0.5, 2).ne(0));
  EXPECT_NEAR(both.to(torch::kFloat64).mean().item<double>(), 0.25, 0.01);
}

TEST(Dropout, MaskDependsOnTheLogicalIndexNotOnStrides) {
  const Tensor x = torch::randn({33, 21});
  EXPECT_TRUE(torch::equal(ops::dropout(x.t().contiguous().t(), 0.4, 3), ops::dropout(x, 0.4, 3)));
}

TEST(Dropout, ZeroReturnsTheInput) {
  const Tensor x = torch::randn({4});
  EXPECT_TRUE(ops::dropout(x, 0, 1).is_same(x));
}

TEST(Dropout, BFloat16IsScaledInFloat32) {
  const Tensor x = torch::randn({1000}).to(torch::kBFloat16);
  const Tensor y = ops::dropout(x, 0.1, 9);
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(torch::equal(y, ops::dropout(x.to(torch::kFloat32), 0.1, 9).to(torch::kBFloat16)));
}

TEST(Dropout, Float64GradientsMatchFiniteDifferences) {
  check_gradients([](const std::vector<Tensor>& v) { return ops::dropout(v[0], 0.5, 21).square().sum(); },
                  {torch::randn({13}, torch::kFloat64)});
}

TEST(Dropout, SameBitsForAnyNumberOfThreads) {
  const Tensor x = torch::randn({100003});
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const Tensor one = ops::dropout(x, 0.3, 77);
  at::set_num_threads(2);
  const Tensor two = ops::dropout(x, 0.3, 77);
  at::set_num_threads(before);
  EXPECT_TRUE(torch::equal(one, two));
}

TEST(Dropout, SaysWhatIsWrong) {
  const Tensor x = torch::randn({4});
  for (const double p : {-0.1, 1.0, 2.0, std::numeric_limits<double>::quiet_NaN()})
    EXPECT_THROW(ops::dropout(x, p, 1), Error);
  EXPECT_THROW(ops::dropout(torch::ones({4}, torch::kInt64), 0.5, 1), Error);
  try {
    ops::dropout(x, 1.0, 1);
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "[dropout] p must be in [0, 1), got 1");
  }
}

}  // namespace
}  // namespace megalodon::ops::dropout_test
