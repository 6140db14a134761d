#include "data/mixture.h"

#include <cmath>
#include <random>

#include "data/testing.h"

namespace megalodon::data {
namespace {

std::string usage_error(const std::vector<std::string>& list) {
  return error_of([&] { parse_mixture(list, "data.train"); });
}

TEST(Mixture, ParsesEntries) {
  const auto entries = parse_mixture({"a/b*0.25", "c*2*3e1"}, "data.train");
  ASSERT_EQ(entries.size(), 2U);
  EXPECT_EQ(entries[0].prefix, "a/b");
  EXPECT_EQ(entries[0].weight, 0.25);
  EXPECT_EQ(entries[1].prefix, "c*2");
  EXPECT_EQ(entries[1].weight, 30);
  EXPECT_EQ(parse_mixture({"a"}, "data.train")[0].weight, 0);
}

TEST(Mixture, RefusesWhatIsNoMixture) {
  expect_contains(usage_error({}), {"data.train", "missing"});
  for (const char* wrong : {"a*", "a*0", "a*-1", "a*x", "a*1x", "a*inf", "a*nan", "a*1e999", "a* 1"})
    expect_contains(usage_error({wrong}), {"data.train", "positive number", wrong});
  for (const char* wrong : {"", "*1"}) expect_contains(usage_error({wrong}), {"data.train", "prefix"});
  expect_contains(usage_error({"a*1", "b"}), {"every corpus a weight or none", "a*1", "\"b\""});
  expect_contains(usage_error({"a", "b*1"}), {"every corpus a weight or none"});
}

/// Walks from position 0 and checks every place, count and share on the way.
void check_walk(const Mixture& mixture, const std::vector<double>& shares, int64_t positions) {
  std::vector<int64_t> counts(shares.size());
  for (int64_t position = 0; position < positions; ++position) {
    ASSERT_EQ(mixture.counts(position), counts) << position;
    for (size_t i = 0; i < shares.size(); ++i)
      ASSERT_LT(std::abs(static_cast<double>(counts[i]) - shares[i] * static_cast<double>(position)),
                static_cast<double>(shares.size()));
    const auto [corpus, index] = mixture.at(position);
    ASSERT_LT(corpus, shares.size());
    ASSERT_EQ(index, counts[corpus]++) << position;
  }
}

TEST(Mixture, EveryCorpusHasItsShareAtEveryPosition) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 50; ++round) {
    std::vector<double> shares(1 + random() % 7);
    double sum = 0;
    for (double& share : shares) sum += share = std::pow(10.0, -static_cast<double>(random() % 400) / 100);
    const Mixture mixture = Mixture::of_shares(shares);
    for (size_t i = 0; i < shares.size(); ++i) EXPECT_NEAR(mixture.share(i), shares[i] /= sum, 1e-9);
    check_walk(mixture, shares, 2000);
  }
}

TEST(Mixture, WholeWeightsComeOutExactly) {
  const std::vector<int64_t> weights = {7, 1, 0x100000, 31};
  int64_t sum = 0;
  for (const int64_t weight : weights) sum += weight;
  const Mixture mixture(weights);
  for (const int64_t epochs : {1, 2, 1000}) {
    std::vector<int64_t> expected = weights;
    for (int64_t& count : expected) count *= epochs;
    EXPECT_EQ(mixture.counts(sum * epochs), expected);
  }
}

TEST(Mixture, FarPositionsDoNotOverflow) {
  const Mixture mixture = Mixture::of_shares(std::vector<double>{1, 1e-12, 3});
  const int64_t far = int64_t{1} << 60;
  auto counts = mixture.counts(far);
  EXPECT_EQ(counts[0] + counts[1] + counts[2], far);
  EXPECT_NEAR(static_cast<double>(counts[2]) / static_cast<double>(far), 0.75, 1e-9);
  const auto [corpus, index] = mixture.at(far);
  EXPECT_EQ(index, counts[corpus]++);
  EXPECT_EQ(mixture.counts(far + 1), counts);
}

TEST(Mixture, NeedsPositiveWeights) {
  EXPECT_THROW(Mixture({}), Error);
  EXPECT_THROW(Mixture({1, 0}), Error);
}

}  // namespace
}  // namespace megalodon::data
