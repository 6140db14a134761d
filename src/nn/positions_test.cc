// Proofs of rotary frequencies, slopes and sinusoids: values by hand, and what each scaling is for.
#include "nn/positions.h"

#include <cmath>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::nn {
namespace {

using testing::close;

Tensor doubles(std::vector<double> values) {
  return torch::tensor(values, torch::kFloat64);
}

TEST(RopeFrequencies, ByHand) {
  EXPECT_TRUE(close(rope_frequencies(4, 100, {}).frequency_K, doubles({1, 0.1}), 1e-15));
  EXPECT_TRUE(
      close(rope_frequencies(4, 100, {.kind = "linear", .factor = 4}).frequency_K, doubles({0.25, 0.025}), 1e-15));
  // The slowest pair turns as many times slower as the context is longer, the first not at all.
  EXPECT_TRUE(close(rope_frequencies(4, 100, {.kind = "ntk", .factor = 4}).frequency_K, doubles({1, 0.025}), 1e-12));
  EXPECT_THROW(rope_frequencies(4, 100, {.kind = "cubic"}), UsageError);
}

TEST(RopeFrequencies, YarnStretchesTheSlowPairsAlone) {
  const RopeScaling scaling{.kind = "yarn", .factor = 8, .original_length = 2048};
  const auto plain = rope_frequencies(128, 10000, {}), yarn = rope_frequencies(128, 10000, scaling);
  const Tensor ratio = yarn.frequency_K / plain.frequency_K;
  EXPECT_DOUBLE_EQ(ratio[0].item<double>(), 1);
  EXPECT_DOUBLE_EQ(ratio[63].item<double>(), 1.0 / 8);
  EXPECT_TRUE((ratio.slice(0, 1) <= ratio.slice(0, 0, 63)).all().item<bool>());
  EXPECT_DOUBLE_EQ(yarn.magnitude, 0.1 * std::log(8) + 1);
  EXPECT_DOUBLE_EQ(plain.magnitude, 1);
}

TEST(RopeFrequencies, DynamicScalingsBeginBeyondTheOriginalLength) {
  const Tensor plain = rope_frequencies(16, 10000, {}).frequency_K;
  for (const char* kind : {"dynamic_linear", "dynamic_ntk", "dynamic_yarn"}) {
    const RopeScaling scaling{.kind = kind, .factor = 2, .original_length = 64};
    EXPECT_TRUE(close(rope_frequencies(16, 10000, scaling, 64).frequency_K, plain, 1e-15)) << kind;
    EXPECT_FALSE(close(rope_frequencies(16, 10000, scaling, 96).frequency_K, plain, 1e-3)) << kind;
  }
}

TEST(AlibiSlopes, ByHand) {
  EXPECT_TRUE(close(alibi_slopes(4, 8), doubles({0.25, 0.0625, 1.0 / 64, 1.0 / 256}), 1e-15));
  // Of four: the second, the fourth, the first.
  EXPECT_TRUE(close(alibi_slopes(3, 8), doubles({0.0625, 1.0 / 256, 0.25}), 1e-15));
}

TEST(Sinusoids, ByHand) {
  const Tensor rows = sinusoids(torch::tensor({{0, 3}}, torch::kInt64), sinusoid_frequencies(4));
  const Tensor expected = doubles({0, 1, 0, 1, std::sin(3.0), std::cos(3.0), std::sin(0.03), std::cos(0.03)});
  EXPECT_TRUE(close(rows, expected.view({1, 2, 4}), 1e-7));
}

}  // namespace
}  // namespace megalodon::nn
