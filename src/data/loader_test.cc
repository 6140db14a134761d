#include "data/loader.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "data/testing.h"

namespace megalodon::data {
namespace {

class LoaderTest : public FolderTest {
 protected:
  /// One document whose tokens are their own positions, so that a batch tells where it was read.
  TokenFile counting(int32_t tokens) const {
    std::vector<int32_t> document(static_cast<size_t>(tokens));
    std::iota(document.begin(), document.end(), 0);
    return TokenFile(put_documents("counting", {document}, 100000));
  }
};

bool equal(const Batch& a, const Batch& b) {
  return a.batch == b.batch && a.length == b.length && a.tokens == b.tokens && a.targets == b.targets &&
         a.starts == b.starts;
}

TEST_F(LoaderTest, InOrderWithoutShuffling) {
  const TokenFile file = counting(10);
  Loader loader(file, {2, 3, 0, false});
  EXPECT_EQ(loader.sequences_per_epoch(), 3);
  const Batch first = loader.next();
  EXPECT_EQ(first.batch, 2);
  EXPECT_EQ(first.length, 3);
  EXPECT_EQ(first.tokens, (std::vector<int64_t>{0, 1, 2, 3, 4, 5}));
  EXPECT_EQ(first.targets, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(first.starts, (std::vector<uint8_t>{1, 0, 0, 1, 0, 0}));
  EXPECT_EQ(loader.next().tokens, (std::vector<int64_t>{6, 7, 8, 0, 1, 2}));  // over the epoch's edge
  EXPECT_EQ(loader.position(), 4);
}

TEST_F(LoaderTest, TargetsAndStartsAtDocumentEdges) {
  // Positions:                                        0 1 2    3     4 5 6 7 8
  const TokenFile file(put_documents("a", {{}, {1, 2, 3}, {}, {4}, {5, 6, 7, 8, 9}, {}}, 256));
  Loader loader(file, {2, 4, 0, false});
  const Batch batch = loader.next();
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8}));
  // The successor of 4 is the first token of the next row, and of another document.
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{2, 3, kIgnoreTarget, kIgnoreTarget, 6, 7, 8, 9}));
  EXPECT_EQ(batch.starts, (std::vector<uint8_t>{1, 0, 0, 1, 1, 0, 0, 0}));
}

TEST_F(LoaderTest, AnEpochReadsEveryTokenOnceFromItsOffset) {
  const int64_t length = 7;
  const TokenFile file = counting(1000);
  Loader loader(file, {1, length, 3, true});
  const int64_t count = loader.sequences_per_epoch();
  EXPECT_EQ(count, 141);  // (1000 - 7) / 7
  std::set<int64_t> offsets;
  std::set<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 20; ++epoch) {
    std::vector<int64_t> order, seen;
    for (int64_t i = 0; i < count; ++i) {
      const Batch batch = loader.next();
      order.push_back(batch.tokens[0]);
      seen.insert(seen.end(), batch.tokens.begin(), batch.tokens.end());
      for (size_t t = 0; t < batch.tokens.size(); ++t) ASSERT_EQ(batch.targets[t], batch.tokens[t] + 1);
    }
    std::sort(seen.begin(), seen.end());
    const int64_t offset = seen.front();
    EXPECT_LT(offset, length);
    for (size_t i = 0; i < seen.size(); ++i) ASSERT_EQ(seen[i], offset + static_cast<int64_t>(i));
    EXPECT_FALSE(std::is_sorted(order.begin(), order.end()));
    offsets.insert(offset);
    for (int64_t& begin : order) begin -= offset;
    orders.insert(order);
  }
  EXPECT_GE(offsets.size(), 4U);
  EXPECT_EQ(orders.size(), 20U);
}

TEST_F(LoaderTest, EveryCountOfSequencesIsPermuted) {
  for (const int32_t count : {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 100}) {
    const TokenFile file = counting(count + 1);  // length 1: sequence and token are one
    Loader loader(file, {1, 1, 9, true});
    ASSERT_EQ(loader.sequences_per_epoch(), count);
    std::set<int64_t> seen;
    for (int32_t i = 0; i < count; ++i) seen.insert(loader.next().tokens[0]);
    EXPECT_EQ(seen.size(), static_cast<size_t>(count));
  }
}

TEST_F(LoaderTest, ResumesAnywhereAndDependsOnTheSeed) {
  const TokenFile file = counting(200);
  const LoaderOptions options{4, 9, 11, true};
  Loader loader(file, options);
  ASSERT_EQ(loader.sequences_per_epoch(), 21);  // no multiple of the batch: batches straddle epochs
  std::vector<Batch> batches(30);
  for (Batch& batch : batches) batch = loader.next();
  for (int64_t i = 29; i >= 0; --i) {
    Loader resumed(file, options);
    resumed.seek(i * 4);
    EXPECT_TRUE(equal(resumed.next(), batches[static_cast<size_t>(i)])) << i;
    EXPECT_EQ(resumed.position(), i * 4 + 4);
  }
  Loader other(file, {4, 9, 12, true});
  EXPECT_FALSE(equal(other.next(), batches[0]));
  // The order does not depend on the batch size either.
  Loader single(file, {1, 9, 11, true});
  for (int64_t i = 0; i < 8; ++i) {
    const std::vector<int64_t>& tokens = batches[static_cast<size_t>(i / 4)].tokens;
    EXPECT_EQ(single.next().tokens, std::vector<int64_t>(tokens.begin() + i % 4 * 9, tokens.begin() + (i % 4 + 1) * 9));
  }
}

TEST_F(LoaderTest, ACorpusThatFitsOneSequenceIsEnough) {
  for (const int32_t tokens : {6, 7, 9}) {
    const TokenFile file = counting(tokens);
    Loader loader(file, {1, 5, 1, true});
    EXPECT_EQ(loader.sequences_per_epoch(), 1);
    for (int i = 0; i < 20; ++i) EXPECT_LE(loader.next().targets.back(), tokens - 1);
  }
}

TEST_F(LoaderTest, Errors) {
  const TokenFile file = counting(5);
  expect_contains(error_of([&] { Loader(file, {1, 5, 0, true}); }), {"counting", "5 tokens", "needs 6"});
  expect_contains(error_of([&] { Loader(file, {0, 2, 0, true}); }), {"batch", "got 0"});
  expect_contains(error_of([&] { Loader(file, {1, 0, 0, true}); }), {"length", "got 0"});
  Loader loader(file, {1, 2, 0, true});
  expect_contains(error_of([&] { loader.seek(-1); }), {"position", "-1"});
}

}  // namespace
}  // namespace megalodon::data
