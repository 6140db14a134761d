#include <limits>

#include "ops/cuda_testing.h"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"

namespace megalodon::ops {
namespace {

using namespace testing;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Rows {
  int64_t vocabulary;
  std::vector<float> logits, dnll;
  std::vector<int64_t> targets;
  int64_t rows() const { return static_cast<int64_t>(targets.size()); }
};

Rows make_rows(int64_t rows, int64_t vocabulary) {
  Rows r{vocabulary, random_numbers(rows * vocabulary, 5, 5), random_numbers(rows, 6), {}};
  std::mt19937 generator(7);
  for (int64_t i = 0; i < rows; ++i)
    r.targets.push_back(i % 5 == 3 ? kIgnoredTarget : static_cast<int64_t>(generator() % vocabulary));
  // The first and the last class, which edges of loops might miss.
  r.targets.front() = 0;
  r.targets.back() = vocabulary - 1;
  return r;
}

struct CrossEntropyResults {
  std::vector<float> nll, log_sum, dlogits;
};

/// Where the gradient goes, and how many elements behind an aligned address logits and gradient begin.
struct Layout {
  NumberType type = NumberType::kFloat32;
  bool in_place = false;
  size_t shift = 0;
};

CrossEntropyResults on_gpu(const Rows& r, const Layout& layout) {
  TestQueue queue;
  std::vector<float> behind(layout.shift);
  behind.insert(behind.end(), r.logits.begin(), r.logits.end());
  DeviceArray<float> logits(behind), dnll(r.dnll), nll(r.targets.size()), log_sum(r.targets.size());
  DeviceArray<float> apart(behind.size(), layout.type);
  DeviceArray<int64_t> targets(r.targets);
  cross_entropy_forward_cuda({.logits = logits.data() + layout.shift,
                              .targets = targets.data(),
                              .nll = nll.data(),
                              .log_sum = log_sum.data(),
                              .rows = r.rows(),
                              .vocabulary = r.vocabulary},
                             queue);
  DeviceArray<float>& to = layout.in_place ? logits : apart;
  const size_t bytes = layout.shift * (to.type() == NumberType::kBfloat16 ? 2 : 4);
  cross_entropy_backward_cuda({.logits = logits.data() + layout.shift,
                               .targets = targets.data(),
                               .log_sum = log_sum.data(),
                               .dnll = dnll.data(),
                               .dlogits = static_cast<uint8_t*>(to.numbers()) + bytes,
                               .dlogits_type = to.type(),
                               .rows = r.rows(),
                               .vocabulary = r.vocabulary},
                              queue);
  queue.wait();
  std::vector<float> dlogits = to.values();
  dlogits.erase(dlogits.begin(), dlogits.begin() + static_cast<std::ptrdiff_t>(layout.shift));
  return {nll.values(), log_sum.values(), dlogits};
}

/// log Σ exp of a row, in float64.
double log_sum_of(const float* row, int64_t vocabulary) {
  const double max = *std::max_element(row, row + vocabulary);
  double sum = 0;
  for (int64_t v = 0; v < vocabulary; ++v) sum += std::exp(row[v] - max);
  return max + std::log(sum);
}

/// Every element by its own size: most probabilities are tiny beside the largest gradient.
void expect_gradient(const Rows& r, int64_t row, double log_sum, const float* got, NumberType type) {
  const bool ignored = r.targets[row] == kIgnoredTarget;
  const double dnll = r.dnll[row];
  for (int64_t v = 0; v < r.vocabulary; ++v) {
    const bool hit = r.targets[row] == v;
    const double p = std::exp(r.logits[row * r.vocabulary + v] - log_sum);
    const double expected = ignored ? 0 : (p - (hit ? 1 : 0)) * dnll;
    const double allowed = tolerance(type, 2e-5) * std::abs(expected) + (hit ? 4e-6 * std::abs(dnll) : 1e-30);
    ASSERT_NEAR(got[v], expected, allowed) << "row " << row << " class " << v;
  }
}

void expect_exact(const Rows& r, const Layout& layout) {
  const CrossEntropyResults got = on_gpu(r, layout);
  for (int64_t row = 0; row < r.rows(); ++row) {
    const float* logits = r.logits.data() + row * r.vocabulary;
    const double log_sum = log_sum_of(logits, r.vocabulary);
    const bool ignored = r.targets[row] == kIgnoredTarget;
    const double nll = ignored ? 0 : log_sum - logits[r.targets[row]];
    ASSERT_NEAR(got.nll[row], nll, 1e-6 * std::abs(nll) + 2e-6) << "row " << row;
    ASSERT_NEAR(got.log_sum[row], ignored ? 0 : log_sum, 1e-6 * std::abs(log_sum) + 1e-6) << "row " << row;
    expect_gradient(r, row, log_sum, got.dlogits.data() + row * r.vocabulary, layout.type);
  }
}

TEST(LinearCrossEntropyCuda, RowsAgreeWithFloat64) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Layout layouts[] = {{.in_place = true},
                            {},
                            {.type = NumberType::kBfloat16},
                            {.in_place = true, .shift = 1},
                            {.type = NumberType::kBfloat16, .shift = 2}};
  for (const int64_t vocabulary : {1, 2, 3, 5, 31, 256, 257, 1000, 8190, 8192, 32000, 50257, 256000}) {
    const Rows rows = make_rows(vocabulary > 10000 ? 3 : 41, vocabulary);
    for (const Layout& layout : layouts) {
      SCOPED_TRACE(::testing::Message() << "vocabulary " << vocabulary << " bfloat16 "
                                        << (layout.type == NumberType::kBfloat16) << " in place " << layout.in_place
                                        << " shift " << layout.shift);
      expect_exact(rows, layout);
    }
  }
}

TEST(LinearCrossEntropyCuda, LargeLogitsDoNotOverflow) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Rows r{3, {300, -300, 150, -300, 300, -150}, {1, 1}, {1, 1}};
  const CrossEntropyResults got = on_gpu(r, {});
  EXPECT_TRUE(close(got.nll, std::vector<float>{600, 0}, 1e-6));
  EXPECT_TRUE(close(got.dlogits, std::vector<float>{1, -1, 0, 0, 0, 0}, 1e-6));
}

// A class may be ruled out by -inf; everything else that is no finite number must show in the row's loss and gradient,
// and in no other row's.
TEST(LinearCrossEntropyCuda, NotANumberIsNotLost) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const int64_t vocabulary : {7, 1003}) {
    Rows r = make_rows(6, vocabulary);
    r.targets = {1, 1, 1, 1, 1, 1};
    const auto row = [&](int64_t i) { return r.logits.begin() + i * vocabulary; };
    row(0)[4] = kNan;
    row(1)[4] = kInfinity;
    std::fill(row(2), row(3), -kInfinity);
    std::fill(row(3), row(4), kNan);
    std::fill(row(4), row(5), -kInfinity);
    row(4)[1] = 2;
    const CrossEntropyResults got = on_gpu(r, {});
    for (int64_t i = 0; i < 6; ++i) {
      SCOPED_TRACE(::testing::Message() << "vocabulary " << vocabulary << " row " << i);
      EXPECT_EQ(std::isnan(got.nll[i]), i < 4);
      for (int64_t v = 0; v < vocabulary; ++v) ASSERT_EQ(std::isnan(got.dlogits[i * vocabulary + v]), i < 4);
    }
    EXPECT_EQ(got.nll[4], 0);
  }
}

TEST(LinearCrossEntropyCuda, ATargetOutsideTheVocabularyIsNotANumber) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  Rows r = make_rows(4, 9);
  r.targets = {-1, 9, int64_t{1} << 32, 8};
  const CrossEntropyResults got = on_gpu(r, {.in_place = true});
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(std::isnan(got.nll[i]), i < 3) << i;
    for (int64_t v = 0; v < 9; ++v) EXPECT_EQ(std::isnan(got.dlogits[i * 9 + v]), i < 3) << i;
  }
}

TEST(LinearCrossEntropyCuda, NoRowsAreNoWork) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  EXPECT_TRUE(on_gpu({9, {}, {}, {}}, {}).nll.empty());
}

}  // namespace
}  // namespace megalodon::ops
