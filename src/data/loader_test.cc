#include "data/loader.h"

#include <algorithm>
#include <functional>
#include <numeric>
#include <set>

#include "data/testing.h"

namespace megalodon::data {
namespace {

class LoaderTest : public CorpusTest {
 protected:
  /// One document whose tokens are counted up from `first`, so that a batch tells where it was read.
  TokenFile counting(int32_t first, int32_t tokens) const {
    std::vector<int32_t> document(static_cast<size_t>(tokens));
    std::iota(document.begin(), document.end(), first);
    return TokenFile(put_documents(fmt::format("counting{}", first), {document}, 100000));
  }
  TokenFile counting(int32_t tokens) const { return counting(0, tokens); }
};

std::vector<int64_t> row_of(const std::vector<int64_t>& values, const Batch& batch, int64_t row) {
  return {values.begin() + row * batch.length, values.begin() + (row + 1) * batch.length};
}

bool equal(const Batch& a, const Batch& b) {
  return a.batch == b.batch && a.length == b.length && a.tokens == b.tokens && a.targets == b.targets &&
         a.starts == b.starts && a.continues == b.continues;
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

/// Reads `count` batches in order, then the same ones by seeking from the last to the first.
void check_seeking(const std::function<Loader()>& make, int64_t batch, size_t count) {
  Loader loader = make();
  std::vector<Batch> batches(count);
  for (Batch& each : batches) each = loader.next();
  for (size_t i = count; i-- > 0;) {
    Loader fresh = make();
    for (Loader* each : {&loader, &fresh}) {
      each->seek(static_cast<int64_t>(i) * batch);
      ASSERT_TRUE(equal(each->next(), batches[i])) << i;
    }
  }
}

TEST_F(LoaderTest, MixturesKeepSharesAndEpochs) {
  const TokenFile a = counting(0, 101), b = counting(1000, 301), c = counting(2000, 41);
  const int64_t length = 10;
  Loader loader({{&a, 0.5}, {&b, 0.3}, {&c, 0.2}}, {1, length, 7});
  EXPECT_EQ(loader.sequences_per_epoch(), 9 + 29 + 3);
  // Every corpus is read as if it were alone, and in turn with the others.
  std::vector<std::vector<int64_t>> begins(3);
  for (int64_t i = 0; i < 1000; ++i) {
    const int64_t begin = loader.next().tokens[0];
    begins[static_cast<size_t>(begin / 1000)].push_back(begin % 1000);
  }
  EXPECT_EQ(begins[0].size(), 500U);
  EXPECT_EQ(begins[1].size(), 300U);
  EXPECT_EQ(begins[2].size(), 200U);
  const std::vector<int64_t> per_epoch = {9, 29, 3};
  for (size_t corpus = 0; corpus < 3; ++corpus) {
    const auto count = static_cast<size_t>(per_epoch[corpus]);
    std::set<std::vector<int64_t>> orders;
    for (size_t at = 0; at + count <= begins[corpus].size(); at += count) {
      std::vector<int64_t> epoch(begins[corpus].begin() + static_cast<int64_t>(at),
                                 begins[corpus].begin() + static_cast<int64_t>(at + count));
      orders.insert(epoch);
      std::sort(epoch.begin(), epoch.end());
      for (size_t i = 1; i < count; ++i) ASSERT_EQ(epoch[i], epoch[i - 1] + length) << "each sequence once";
    }
    EXPECT_GT(orders.size(), 5U);
  }
  const auto uses = loader.uses(1000);
  EXPECT_NEAR(uses[0].share, 0.5, 1e-9);
  EXPECT_NEAR(uses[2].epochs, 200.0 / 3, 1e-9);
  EXPECT_EQ(uses[1].fill, 1);
}

TEST_F(LoaderTest, WithoutWeightsEveryCorpusIsReadOnceAnEpoch) {
  const TokenFile a = counting(0, 101), b = counting(1000, 301);
  Loader loader({{&a}, {&b}}, {1, 10, 7});
  std::set<int64_t> begins;
  for (int64_t i = 0; i < loader.sequences_per_epoch(); ++i) begins.insert(loader.next().tokens[0]);
  EXPECT_EQ(begins.size(), static_cast<size_t>(loader.sequences_per_epoch()));
  for (const CorpusUse& use : loader.uses(loader.position())) EXPECT_EQ(use.epochs, 1);
}

TEST_F(LoaderTest, WeightsAreOfTokensThatAreNotPadding) {
  // Documents of 7 tokens leave two of eight positions empty, those of 9 tokens none.
  const TokenFile loose(put_documents("loose", std::vector(40, std::vector<int32_t>(7, 1)), 256));
  const TokenFile tight(put_documents("tight", std::vector(40, std::vector<int32_t>(9, 2)), 256));
  Loader loader({{&loose, 1}, {&tight, 1}}, {1, 8, 7, true, Packing::kDocuments});
  int64_t targets_of_loose = 0, targets_of_tight = 0;
  for (int i = 0; i < 700; ++i) {
    for (const int64_t target : loader.next().targets) targets_of_loose += target == 1, targets_of_tight += target == 2;
  }
  EXPECT_EQ(targets_of_loose, targets_of_tight);
  const auto uses = loader.uses(700);
  EXPECT_NEAR(uses[0].share, 0.5, 1e-9);
  EXPECT_EQ(uses[0].fill, 0.75);
  EXPECT_EQ(uses[0].epochs, 10);
  EXPECT_EQ(uses[1].epochs, 7.5);
}

TEST_F(LoaderTest, StatefulRowsGoOnFromBatchToBatch) {
  const TokenFile file = counting(0, 250);
  const int64_t length = 4, rows = 3;
  Loader loader(file, {rows, length, 5, true, Packing::kStateful});
  EXPECT_EQ(loader.segment(), 20);  // (250 - 4) / 4 sequences for 3 rows
  std::set<std::vector<int64_t>> beginnings;
  for (int64_t epoch = 0; epoch < 6; ++epoch) {
    std::set<int64_t> seen;
    std::vector<int64_t> expected;
    for (int64_t part = 0; part < loader.segment(); ++part) {
      const Batch batch = loader.next();
      EXPECT_EQ(batch.continues, part > 0);
      for (int64_t row = 0; row < rows; ++row) {
        const auto tokens = row_of(batch.tokens, batch, row);
        if (part > 0) {
          ASSERT_EQ(tokens[0], expected[static_cast<size_t>(row)]);
        } else {
          expected.push_back(0);
        }
        expected[static_cast<size_t>(row)] = row_of(batch.targets, batch, row).back();
        ASSERT_EQ(batch.starts[static_cast<size_t>(row * length)], part == 0) << "only where a row begins anew";
        seen.insert(tokens.begin(), tokens.end());
      }
      if (part == 0) beginnings.insert(batch.tokens);
    }
    EXPECT_EQ(seen.size(), static_cast<size_t>(rows * length * loader.segment())) << "no token twice in an epoch";
  }
  EXPECT_GE(beginnings.size(), 4U) << "another order and offset each epoch";
}

TEST_F(LoaderTest, StatefulRowsMarkDocuments) {
  // Two documents whose edge falls on a sequence's edge, and one whose edge does not.
  const TokenFile file(put_documents("a", {{1, 2, 3, 4}, {5, 6}, {7, 8, 9, 10, 11, 12, 13}}, 256));
  Loader loader(file, {1, 4, 0, false, Packing::kStateful, 3});
  Batch batch = loader.next();
  EXPECT_EQ(batch.starts, (std::vector<uint8_t>{1, 0, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{2, 3, 4, kIgnoreTarget}));
  batch = loader.next();
  EXPECT_TRUE(batch.continues);
  EXPECT_EQ(batch.tokens, (std::vector<int64_t>{5, 6, 7, 8}));
  EXPECT_EQ(batch.starts, (std::vector<uint8_t>{1, 0, 1, 0}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{6, kIgnoreTarget, 8, 9}));
  batch = loader.next();
  EXPECT_TRUE(batch.continues);
  EXPECT_EQ(batch.starts, (std::vector<uint8_t>{0, 0, 0, 0}));
  EXPECT_FALSE(loader.next().continues);
}

TEST_F(LoaderTest, SeekingEqualsReadingInOrderForEveryPacking) {
  std::vector<std::vector<int32_t>> documents;
  for (int32_t i = 0; i < 60; ++i) documents.emplace_back(static_cast<size_t>(i * 7 % 23), i);
  const TokenFile a(put_documents("a", documents, 256)), b = counting(0, 333);
  for (const Packing packing : {Packing::kStream, Packing::kDocuments, Packing::kStateful})
    for (const bool mixed : {false, true})
      for (const bool shuffle : {false, true}) {
        std::vector<Corpus> corpora = {{&a}};
        if (mixed) corpora = {{&a, 0.7}, {&b, 0.3}};
        const LoaderOptions options{4, 9, 11, shuffle, packing, packing == Packing::kStateful ? 5 : 0};
        check_seeking([&] { return Loader(corpora, options); }, 4, 60);
      }
}

TEST_F(LoaderTest, MixedStatefulRowsGoOnInTheirCorpus) {
  const TokenFile a = counting(0, 500), b = counting(1000, 500);
  Loader loader({{&a, 0.7}, {&b, 0.3}}, {2, 5, 5, true, Packing::kStateful, 6});
  int64_t of_a = 0;
  std::vector<int64_t> last(2);
  for (int64_t i = 0; i < 600; ++i) {
    const Batch batch = loader.next();
    EXPECT_EQ(batch.continues, i % 6 != 0);
    for (int64_t row = 0; row < 2; ++row) {
      const auto tokens = row_of(batch.tokens, batch, row);
      if (batch.continues) {
        ASSERT_EQ(tokens[0], last[static_cast<size_t>(row)] + 1);
      }
      last[static_cast<size_t>(row)] = tokens.back();
      of_a += tokens[0] < 1000;
    }
  }
  EXPECT_EQ(of_a, 840);  // 70 % of 200 segments of 6 sequences
}

TEST_F(LoaderTest, TheSameCorpusTwiceIsReadInTwoOrders) {
  const TokenFile a = counting(0, 500);
  Loader loader({{&a, 1}, {&a, 1}}, {1, 5, 5});
  std::vector<std::vector<int64_t>> orders(2);
  for (size_t i = 0; i < 40; ++i) orders[i % 2].push_back(loader.next().tokens[0]);
  EXPECT_NE(orders[0], orders[1]);
}

TEST_F(LoaderTest, Errors) {
  const TokenFile file = counting(5);
  expect_contains(error_of([&] { Loader(file, {1, 5, 0, true}); }), {"counting", "5 tokens", "needs 6"});
  expect_contains(error_of([&] { Loader(file, {0, 2, 0, true}); }), {"batch", "got 0"});
  expect_contains(error_of([&] { Loader(file, {1, 0, 0, true}); }), {"length", "got 0"});
  Loader loader(file, {1, 2, 0, true});
  expect_contains(error_of([&] { loader.seek(-1); }), {"position", "-1"});
  expect_contains(error_of([&] { Loader({}, {1, 2}); }), {"expected a corpus"});
  expect_contains(error_of([&] { Loader({{&file, 1}, {&file}}, {1, 2}); }), {"every corpus a weight or none"});
  const TokenFile longer = counting(100);
  const LoaderOptions stateful{4, 5, 0, true, Packing::kStateful, 20};
  expect_contains(error_of([&] { Loader(longer, stateful); }), {"100 tokens", "segment of 20 sequences", "needs 101"});
  Loader rows(longer, {4, 5, 0, true, Packing::kStateful});
  // Of 100 tokens 19 sequences of 5 are left: 9 rows can have two each, 10 rows one.
  EXPECT_EQ(Loader(longer, {9, 5, 0, true, Packing::kStateful}).segment(), 2);
  for (const int64_t batch : {10, 20, 1000})
    expect_contains(error_of([&] {
                      Loader(longer, {batch, 5, 0, true, Packing::kStateful});
                    }),
                    {fmt::format("a batch of {},", batch), "largest batch that works is 9"});
  expect_contains(error_of([&] {
                    Loader({{&longer, 3}, {&longer, 1}}, {20, 5, 0, true, Packing::kStateful});
                  }),
                  {"largest batch that works is 12"});
  expect_contains(error_of([&] { Loader(file, {3, 2, 0, true, Packing::kStateful}); }), {"single row"});
  EXPECT_EQ(Loader(longer, {10, 5, 0, true, Packing::kStateful, 1}).segment(), 1) << "asked for";
  expect_contains(error_of([&] { rows.seek(6); }), {"multiple of the batch, 4", "got 6"});
  expect_contains(error_of([] { parse_packing("best"); }), {"stream, documents or stateful", "best"});
}

}  // namespace
}  // namespace megalodon::data
