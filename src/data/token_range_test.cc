#include "data/token_range.h"

#include "data/testing.h"

namespace megalodon::data {
namespace {

class TokenRanges : public CorpusTest {};

TEST_F(TokenRanges, AreThoseOfTheDocumentsAlone) {
  // Two sequences of two, [1 8] and [3 4], of the eight tokens that are stored: 9 9 | 3 4 | 9 9 | 1 8.
  std::string index = kIndex.substr(0, 18);
  const auto put_value = [&](auto value) { index.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  for (const uint64_t count : {2, 2}) put_value(count);
  for (const int32_t length : {2, 2}) put_value(length);
  for (const int64_t offset : {12, 4}) put_value(offset);
  for (const int64_t first : {0, 2}) put_value(first);
  put("a.idx", index);
  put("a.bin", from_hex("09000900030004000900090001000800"));
  const TokenFile file(folder_ / "a");
  uint64_t read = 0;
  const TokenRange range = file.range([&](uint64_t done, uint64_t total) {
    EXPECT_EQ(total, 8U);
    read = done;
  });
  EXPECT_EQ(read, 8U);
  EXPECT_EQ(range.smallest, 0);
  EXPECT_EQ(range.largest, 8);
}

TEST(TokenRange, OfEveryIntegerType) {
  const auto range_of = [](const std::string& stored, int code) {
    TokenRange range;
    range.add(std::as_bytes(std::span(stored)), code);
    return std::pair(range.smallest, range.largest);
  };
  using Range = std::pair<int64_t, int64_t>;
  EXPECT_EQ(range_of("", 8), Range(0, -1));
  EXPECT_EQ(range_of(from_hex("01FF02"), 1), Range(0, 255));
  EXPECT_EQ(range_of(from_hex("01FF02"), 2), Range(-1, 2));
  EXPECT_EQ(range_of(from_hex("FFFF0300"), 8), Range(0, 65535));
  EXPECT_EQ(range_of(from_hex("FFFF0300"), 3), Range(-1, 3));
  EXPECT_EQ(range_of(from_hex("FFFFFF7F00000080"), 4), Range(-2147483648LL, 0x7FFFFFFF));
  EXPECT_EQ(range_of(from_hex("FFFFFFFFFFFFFFFF0000000001000000"), 5), Range(-1, int64_t{1} << 32));
}

}  // namespace
}  // namespace megalodon::data
