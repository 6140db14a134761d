#include "infer/rewindable_stream.h"

#include <gtest/gtest.h>

#include <random>

#include "base/check.h"
#include "models/testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;
using testing::noisy_model;
using testing::tiny_config;
using Tokens = std::vector<int64_t>;

class RewindableStreamTest : public ::testing::Test {
 protected:
  static constexpr int64_t kLength = 45, kChunk = 8;  // five chunks and a part of the sixth

  Tokens text(int64_t seed) const {
    const Tensor tokens = testing::random_tokens(tiny_config(), 1, kLength, seed);
    return {tokens.data_ptr<int64_t>(), tokens.data_ptr<int64_t>() + kLength};
  }

  /// The stream of so many of the tokens, read chunk by chunk.
  Stream plain(const Tokens& tokens, int64_t count) const {
    Stream stream;
    while (stream.tokens() < count) {
      const int64_t part = std::min(count - stream.tokens(), kChunk);
      engine_.read(stream, std::span(tokens).subspan(static_cast<size_t>(stream.tokens()), static_cast<size_t>(part)));
    }
    return stream;
  }
  void expect_like_reading(const RewindableStream& stream, const Tokens& tokens) const {
    const Stream expected = plain(tokens, stream.stream().tokens());
    const Tensor& logits = stream.stream().logits();
    ASSERT_EQ(logits.defined(), expected.tokens() > 0);
    if (!logits.defined()) return;
    EXPECT_TRUE(close(logits, expected.logits(), 1e-5)) << expected.tokens();
  }

  std::unique_ptr<Model> model_ = noisy_model(tiny_config());
  Engine engine_{*model_};
};

/// Bit for bit where both read chunk by chunk; and what it read after a position it forgets.
TEST_F(RewindableStreamTest, GoneBackAndOnIsNeverHavingGone) {
  const Tokens tokens = text(1), other = text(2);
  for (int64_t position = 0; position <= kLength; ++position) {
    RewindableStream stream(engine_);
    stream.read(tokens);
    EXPECT_EQ(stream.rewind(position), position == kLength ? 0 : position % kChunk);
    EXPECT_EQ(stream.stream().tokens(), position);
    if (position > 0) {
      EXPECT_TRUE(torch::equal(stream.stream().logits(), plain(tokens, position).logits())) << position;
    }
    stream.read(std::span(other).subspan(static_cast<size_t>(position)));
    Tokens joined(tokens.begin(), tokens.begin() + position);
    joined.insert(joined.end(), other.begin() + position, other.end());
    expect_like_reading(stream, joined);
    stream.rewind(position);
    stream.read(std::span(tokens).subspan(static_cast<size_t>(position)));
    expect_like_reading(stream, tokens);
  }
}

TEST_F(RewindableStreamTest, AnyWayThereAndBackIsOneWay) {
  const Tokens tokens = text(3);
  std::mt19937 random(1);
  const auto up_to = [&](int64_t most) { return static_cast<int64_t>(random() % static_cast<uint64_t>(most + 1)); };
  RewindableStream stream(engine_);
  for (int action = 0; action < 300; ++action) {
    const int64_t at = stream.stream().tokens();
    if (up_to(2) == 0) {
      const int64_t to = up_to(at);
      EXPECT_LT(stream.rewind(to), kChunk);
      EXPECT_EQ(stream.stream().tokens(), to);
    } else {
      stream.read(std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(up_to(kLength - at))));
    }
    expect_like_reading(stream, tokens);
  }
}

TEST_F(RewindableStreamTest, AStreamThatBeganElsewhereGoesBackToThere) {
  const Tokens tokens = text(4);
  for (const int64_t begin : {5, 8, 21}) {
    Stream begun;
    engine_.read(begun, std::span(tokens).first(static_cast<size_t>(begin)));
    const Tensor logits = begun.logits().clone();
    RewindableStream stream(engine_, begun);
    EXPECT_EQ(stream.earliest(), begin);
    for (int64_t position = begin; position <= kLength; ++position) {
      stream.read(std::span(tokens).subspan(static_cast<size_t>(stream.stream().tokens())));
      stream.rewind(position);
      expect_like_reading(stream, tokens);
    }
    EXPECT_EQ(stream.rewind(begin), 0);
    EXPECT_TRUE(torch::equal(stream.stream().logits(), logits)) << "nothing was read again";
    EXPECT_TRUE(torch::equal(begun.logits(), logits)) << "the one that it was made from is none of its business";
    EXPECT_THROW(stream.rewind(begin - 1), Error);
  }
}

TEST_F(RewindableStreamTest, WhatItKeepsIsBounded) {
  const Tokens tokens = text(5);
  RewindableStream all(engine_);
  all.read(std::span(tokens).first(kChunk));
  const int64_t nothing = RewindableStream(engine_).bytes(), one = all.bytes() - nothing;
  EXPECT_GT(one, kChunk * static_cast<int64_t>(sizeof(int64_t)));
  all.read(std::span(tokens).subspan(kChunk));
  EXPECT_EQ(all.bytes(), nothing + 5 * one) << "at the end of a chunk it keeps no keys and values";
  EXPECT_EQ(all.earliest(), 0);

  RewindableStream two(engine_, {}, 2 * one), none(engine_, {}, 0);
  for (const int64_t& token : tokens) two.read({&token, 1}), none.read({&token, 1});
  EXPECT_EQ(two.earliest(), 32);
  EXPECT_EQ(two.bytes(), 2 * one);
  EXPECT_EQ(none.earliest(), 40) << "the latest stays";
  EXPECT_THROW(two.rewind(31), Error);
  EXPECT_EQ(two.rewind(33), 1);
  expect_like_reading(two, tokens);
  EXPECT_EQ(two.bytes(), one);
  two.read(std::span(tokens).subspan(33));
  expect_like_reading(two, tokens);
}

TEST_F(RewindableStreamTest, WhatIsRefusedChangesNothing) {
  const Tokens tokens = text(6);
  RewindableStream stream(engine_);
  stream.read(tokens);
  EXPECT_THROW(stream.rewind(-1), Error);
  EXPECT_THROW(stream.rewind(kLength + 1), Error);
  EXPECT_THROW(stream.read(Tokens{-1}), Error);
  EXPECT_EQ(stream.stream().tokens(), kLength);
  expect_like_reading(stream, tokens);
  stream.rewind(43);
  expect_like_reading(stream, tokens);
}

}  // namespace
}  // namespace megalodon
