#include "base/utf8.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace megalodon {
namespace {

constexpr const char* kBad = "\xEF\xBF\xBD";

std::string times(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += kBad;
  return text;
}

std::string decode(std::string_view bytes) {
  Utf8Stream stream;
  std::string out = stream.push(bytes);
  return out + stream.finish();
}

std::string encode(uint32_t c) {
  const auto byte = [](uint32_t value) { return static_cast<char>(static_cast<unsigned char>(value)); };
  if (c < 0x80) return {byte(c)};
  if (c < 0x800) return {byte(0xC0 | c >> 6), byte(0x80 | (c & 63))};
  if (c < 0x10000) return {byte(0xE0 | c >> 12), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
  return {byte(0xF0 | c >> 18), byte(0x80 | (c >> 12 & 63)), byte(0x80 | (c >> 6 & 63)), byte(0x80 | (c & 63))};
}

TEST(Utf8, EveryCodePointIsValidExceptSurrogatesAndBeyondTheLast) {
  for (uint32_t c = 0; c < 0x120000; ++c) {
    const bool valid = c < 0x110000 && (c < 0xD800 || c > 0xDFFF);
    ASSERT_EQ(is_valid_utf8(encode(c)), valid) << c;
    if (valid) {
      ASSERT_EQ(decode(encode(c)), encode(c)) << c;
    }
  }
}

TEST(Utf8, OverlongFormsAreInvalid) {
  for (const char* text :
       {"\xC0\xAF", "\xC1\xBF", "\xE0\x80\xAF", "\xE0\x9F\xBF", "\xF0\x80\x80\xAF", "\xF0\x8F\xBF\xBF"})
    EXPECT_FALSE(is_valid_utf8(text));
}

TEST(Utf8, OneReplacementPerMaximalIllFormedPart) {
  // Unicode 15, tables 3-8 to 3-11.
  EXPECT_EQ(decode("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), times(8) + "A");
  EXPECT_EQ(decode("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), times(8) + "A");
  EXPECT_EQ(decode("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), times(5) + "A" + times(2) + "B");
  EXPECT_EQ(decode("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), times(4) + "A");
}

TEST(Utf8, WhatIsPendingGoesOnInAnotherStream) {
  const std::string bytes = "a\xF0\x9F\xA6\x88\xE2\x82";
  for (size_t cut = 0; cut <= bytes.size(); ++cut) {
    Utf8Stream first, second;
    std::string out = first.push(bytes.substr(0, cut));
    EXPECT_EQ(first.pending(), cut < 5 ? bytes.substr(1, cut == 0 ? 0 : cut - 1) : bytes.substr(5, cut - 5));
    EXPECT_EQ(second.push(first.pending()), "");
    out += second.push(bytes.substr(cut));
    EXPECT_EQ(out + second.finish(), decode(bytes)) << cut;
  }
}

TEST(Utf8, AnySplitGivesTheSameTextAndOnlyValidPieces) {
  const std::string bytes = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\x88\xE2\x82zz\xFF\xF0\x9F\xA6";
  const std::string whole = decode(bytes);
  EXPECT_EQ(whole, "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\xA6\x88" + times(1) + "zz" + times(2));
  for (uint32_t cuts = 0; cuts < 1U << (bytes.size() - 1); ++cuts) {
    Utf8Stream stream;
    std::string out, piece;
    for (size_t i = 0; i < bytes.size(); ++i) {
      piece += bytes[i];
      if (i + 1 < bytes.size() && (cuts >> i & 1) == 0) continue;
      const std::string text = stream.push(piece);
      ASSERT_TRUE(is_valid_utf8(text));
      out += text;
      piece.clear();
    }
    ASSERT_EQ(out + stream.finish(), whole) << cuts;
  }
}

TEST(Utf8, FirstCharacter) {
  const auto expect = [](std::string_view text, uint32_t code, size_t length, bool valid) {
    const Utf8Character got = first_character(text);
    EXPECT_EQ(got.code, code) << text;
    EXPECT_EQ(got.length, length) << text;
    EXPECT_EQ(got.valid, valid) << text;
  };
  expect(std::string_view("\0a", 2), 0, 1, true);
  expect("\x7F", 0x7F, 1, true);
  expect("\xC2\x80x", 0x80, 2, true);
  expect("\xE2\x96\x81", 0x2581, 3, true);
  expect("\xF0\x9F\xA6\x88", 0x1F988, 4, true);
  expect("\xF4\x8F\xBF\xBF", 0x10FFFF, 4, true);
  for (const char* bad : {"\xE2\x96", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xC0\xAF", "\x80", "\xFF"})
    expect(bad, static_cast<unsigned char>(bad[0]), 1, false);
}

TEST(Utf8, HoldsBackOnlyWhatIsIncomplete) {
  Utf8Stream stream;
  EXPECT_EQ(stream.push("x\xF0\x9F"), "x");
  EXPECT_EQ(stream.push("\xA6\x88y"), "\xF0\x9F\xA6\x88y");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("\xE2\x82"), "");
  EXPECT_EQ(stream.finish(), kBad);
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.push("z"), "z");
}

}  // namespace
}  // namespace megalodon
