#include "data/packing.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>

#include "data/testing.h"

namespace megalodon::data {
namespace {

using Pair = std::pair<int64_t, int64_t>;  // a token and its successor

class PackingTest : public CorpusTest {
 protected:
  /// Documents of the given lengths whose tokens are their positions in the concatenation, so that a row tells where it
  /// was read. Token 0 is left to padding.
  TokenFile numbered(const std::vector<int64_t>& lengths) const {
    std::vector<std::vector<int32_t>> documents;
    int32_t token = 1;
    for (const int64_t length : lengths) {
      documents.emplace_back(static_cast<size_t>(length));
      for (int32_t& value : documents.back()) value = token++;
    }
    return TokenFile(put_documents("numbered", documents, 1 << 30));
  }
};

struct Sequence {
  explicit Sequence(int64_t length)
      : tokens(static_cast<size_t>(length), -7), targets(tokens), starts(static_cast<size_t>(length), 7) {}
  std::vector<int64_t> tokens, targets;
  std::vector<uint8_t> starts;
  Row row() { return {tokens, targets, starts}; }
  bool operator==(const Sequence&) const = default;
};

Sequence read(Sequences& from, int64_t index, int64_t length) {
  Sequence sequence(length);
  from.read(index, sequence.row());
  return sequence;
}

/// All pairs that an epoch must hold.
std::set<Pair> pairs_of(const TokenFile& file) {
  std::set<Pair> pairs;
  for (int64_t document = 0; document < file.documents(); ++document)
    for (int64_t i = 1; i < file.document_length(document); ++i)
      pairs.emplace(file.document_begin(document) + i, file.document_begin(document) + i + 1);
  return pairs;
}

/// Checks one sequence against the documents and moves its pairs out of `left`.
void check_sequence(const Sequence& sequence, const TokenFile& file, std::set<Pair>& left) {
  ASSERT_EQ(sequence.starts[0], 1);
  bool padding = false;
  for (size_t i = 0; i < sequence.tokens.size(); ++i) {
    const int64_t token = sequence.tokens[i], target = sequence.targets[i];
    if (padding || token == 0) {
      ASSERT_EQ(token, 0) << "padding ends the sequence";
      ASSERT_EQ(target, kIgnoreTarget);
      ASSERT_EQ(sequence.starts[i], padding ? 0 : 1) << "padding is a document of its own";
      padding = true;
      continue;
    }
    ASSERT_EQ(target, token + 1);
    ASSERT_EQ(file.document_of(token - 1), file.document_of(target - 1)) << "a target of a neighbour";
    ASSERT_EQ(left.erase({token, target}), 1U) << "twice in an epoch: " << token;
    if (i == 0) continue;
    // The last token of a document is no position, so its successor in the file is never next to the one before it.
    ASSERT_EQ(sequence.starts[i] == 0, token == sequence.tokens[i - 1] + 1);
  }
}

std::vector<int64_t> random_lengths(size_t count, int64_t longest, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int64_t> lengths(count);
  for (int64_t& length : lengths) length = static_cast<int64_t>(random() % static_cast<uint64_t>(longest + 1));
  return lengths;
}

TEST_F(PackingTest, AnEpochHoldsEveryPairOnceAndNoNeighbours) {
  for (const int64_t length : {1, 5, 16, 64}) {
    const TokenFile file = numbered(random_lengths(300, 60, 2));
    PackedSequences packed(file, {length, 1, 3, true});
    const auto all = pairs_of(file);
    std::set<std::vector<int64_t>> orders;
    for (int64_t epoch = 0; epoch < 4; ++epoch) {
      auto left = all;
      std::vector<int64_t> order;
      for (int64_t i = 0; i < packed.per_epoch(); ++i) {
        const Sequence sequence = read(packed, epoch * packed.per_epoch() + i, length);
        check_sequence(sequence, file, left);
        if (HasFatalFailure()) return;
        order.push_back(sequence.tokens[0]);
      }
      EXPECT_TRUE(left.empty());
      orders.insert(order);
    }
    EXPECT_EQ(orders.size(), 4U) << "epochs have orders of their own";
    EXPECT_NEAR(packed.fill(), static_cast<double>(all.size()) / static_cast<double>(packed.per_epoch() * length),
                1e-12);
  }
}

TEST_F(PackingTest, StartsAndPaddingByHand) {
  const TokenFile file = numbered({4, 1, 3, 0, 8});  // pieces: 1-3 | 6-7 | 9-13, 14-15
  PackedSequences packed(file, {5, 1, 0, false});
  ASSERT_EQ(packed.per_epoch(), 3);
  constexpr int64_t kNone = kIgnoreTarget;
  Sequence sequence = read(packed, 0, 5);
  EXPECT_EQ(sequence.tokens, (std::vector<int64_t>{9, 10, 11, 12, 13}));
  EXPECT_EQ(sequence.targets, (std::vector<int64_t>{10, 11, 12, 13, 14}));
  EXPECT_EQ(sequence.starts, (std::vector<uint8_t>{1, 0, 0, 0, 0}));
  sequence = read(packed, 1, 5);
  EXPECT_EQ(sequence.tokens, (std::vector<int64_t>{1, 2, 3, 6, 7}));
  EXPECT_EQ(sequence.targets, (std::vector<int64_t>{2, 3, 4, 7, 8}));
  EXPECT_EQ(sequence.starts, (std::vector<uint8_t>{1, 0, 0, 1, 0}));
  sequence = read(packed, 2, 5);
  EXPECT_EQ(sequence.tokens, (std::vector<int64_t>{14, 15, 0, 0, 0}));
  EXPECT_EQ(sequence.targets, (std::vector<int64_t>{15, 16, kNone, kNone, kNone}));
  EXPECT_EQ(sequence.starts, (std::vector<uint8_t>{1, 0, 1, 0, 0}));
  EXPECT_EQ(packed.fill(), 12.0 / 15);
}

TEST_F(PackingTest, AnySequenceCanBeReadFirst) {
  const int64_t length = 32;
  const TokenFile file = numbered(random_lengths(1500, 20, 5));  // several pools
  PackedSequences packed(file, {length, 1, 3, true});
  std::vector<Sequence> in_order;
  for (int64_t i = 0; i < 2 * packed.per_epoch(); ++i) in_order.push_back(read(packed, i, length));
  std::mt19937_64 random(6);
  for (int i = 0; i < 300; ++i) {
    const size_t index = random() % in_order.size();
    EXPECT_EQ(read(packed, static_cast<int64_t>(index), length), in_order[index]) << index;
    if (i % 50 == 0) {
      PackedSequences fresh(file, {length, 1, 3, true});
      EXPECT_EQ(read(fresh, static_cast<int64_t>(index), length), in_order[index]) << index;
    }
  }
  PackedSequences other(file, {length, 1, 4, true});
  EXPECT_NE(read(other, 0, length), in_order[0]);
}

TEST_F(PackingTest, FillsWellAndNeverTooMuch) {
  std::mt19937_64 random(7);
  for (const int64_t capacity : {1, 10, 1000}) {
    std::vector<Piece> pieces;
    for (int64_t i = 0; i < 5000; ++i) pieces.push_back({i, 1 + static_cast<int64_t>(random() % uint64_t(capacity))});
    const PackedPieces packed = pack(pieces, capacity);
    std::set<int64_t> seen;
    for (int64_t s = 0; s < packed.sequences(); ++s) {
      int64_t sum = 0;
      for (size_t i = packed.first[size_t(s)]; i < packed.first[size_t(s) + 1]; ++i) {
        sum += packed.pieces[i].count;
        EXPECT_TRUE(seen.insert(packed.pieces[i].begin).second);
        EXPECT_EQ(pieces[size_t(packed.pieces[i].begin)].count, packed.pieces[i].count);
      }
      EXPECT_LE(sum, capacity);
      EXPECT_GT(sum, 0);
    }
    EXPECT_EQ(seen.size(), pieces.size());
    int64_t total = 0;
    for (const Piece& piece : pieces) total += piece.count;
    EXPECT_LE(packed.sequences(), total / capacity + total / capacity / 50 + 1) << "over 2 % of padding";
  }
  EXPECT_EQ(pack({}, 4).sequences(), 0);
}

TEST_F(PackingTest, ACorpusWithoutPairsIsRefused) {
  const TokenFile file = numbered({1, 0, 1});
  expect_contains(error_of([&] { PackedSequences(file, {4, 1, 0, true}); }), {"numbered", "two tokens"});
}

}  // namespace
}  // namespace megalodon::data
