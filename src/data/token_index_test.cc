#include "data/token_index.h"

#include "base/philox.h"
#include "data/testing.h"

namespace megalodon::data {
namespace {

class TokenIndexFile : public CorpusTest {
 protected:
  std::string rejection(const std::string& index, const std::string& tokens = kTokens) const {
    put("a.bin", tokens);
    put("a.idx", index);
    return error_of([&] { TokenFile file(folder_ / "a"); });
  }
};

TEST_F(TokenIndexFile, RejectsWithFileByteAndRule) {
  const uint64_t huge = uint64_t{1} << 63;
  expect_contains(rejection(with(kIndex, 0, 'X')), {"a.idx", "byte 0", "magic"});
  expect_contains(rejection(with(kIndex, 8, 'X')), {"a.idx", "byte 0", "magic"});
  expect_contains(rejection(with(kIndex, 9, uint64_t{2})), {"a.idx", "byte 9", "version 1", "got 2"});
  for (const uint8_t code : {0, 6, 7, 9, 255})
    expect_contains(rejection(with(kIndex, 17, code)), {"a.idx", "byte 17", "dtype", fmt::format("got {}", code)});
  expect_contains(rejection(with(kIndex, 18, huge)), {"a.idx", "byte 18", "9223372036854775808 sequences"});
  expect_contains(rejection(with(kIndex, 18, uint64_t{5})), {"a.idx", "byte 18", "5 sequences"});
  expect_contains(rejection(with(kIndex, 26, huge)), {"a.idx", "byte 26", "9223372036854775808 document"});
  expect_contains(rejection(with(kIndex, 26, uint64_t{0})), {"a.idx", "byte 26", "at least one"});
  expect_contains(rejection(with(kIndex, 26, uint64_t{2})), {"a.idx", "byte 74", "8 bytes"});
  expect_contains(rejection(with(kIndex, 34, int32_t{-1})), {"a.idx", "byte 34", "sequence 0", "negative"});
  expect_contains(rejection(with(kIndex, 38, int32_t{2})), {"a.idx", "byte 50", "sequence 1", "beyond"});
  expect_contains(rejection(with(kIndex, 50, int64_t{-2})), {"a.idx", "byte 50", "negative"});
  expect_contains(rejection(with(kIndex, 50, int64_t{5})), {"a.idx", "byte 50", "multiple of 2"});
  expect_contains(rejection(with(kIndex, 50, int64_t{8})), {"a.idx", "byte 50", "beyond the 8 bytes"});
  expect_contains(rejection(with(kIndex, 50, int64_t{0x7FFFFFFFFFFFFFFE})), {"a.idx", "byte 50", "beyond"});
  expect_contains(rejection(with(kIndex, 58, int64_t{1})), {"a.idx", "byte 58", "first document"});
  expect_contains(rejection(with(kIndex, 66, int64_t{3})), {"a.idx", "byte 66", "document 1", "[0, 2]"});
  expect_contains(rejection(with(kIndex, 66, int64_t{-1})), {"a.idx", "byte 66", "document 1", "decrease"});
  expect_contains(rejection(with(with(kIndex, 66, int64_t{2}), 74, int64_t{1})), {"a.idx", "byte 74", "[2, 2]"});
  expect_contains(rejection(with(kIndex, 74, int64_t{1})), {"a.idx", "byte 74", "number of sequences, 2"});
  expect_contains(rejection(kIndex + "x"), {"a.idx", "byte 82", "end of the file"});
  expect_contains(rejection(kIndex, kTokens.substr(0, 7)), {"a.idx", "byte 50", "beyond the 7 bytes"});
  expect_contains(rejection(kIndex, ""), {"a.idx", "byte 42", "beyond the 0 bytes"});
}

TEST_F(TokenIndexFile, RejectsEveryTruncation) {
  for (size_t size = 0; size < kIndex.size(); ++size) expect_contains(rejection(kIndex.substr(0, size)), {"a.idx"});
  fs::remove(folder_ / "a.bin");
  expect_contains(error_of([&] { TokenFile file(folder_ / "a"); }), {"a.bin", "No such file"});
}

TEST_F(TokenIndexFile, FlippedBitsAreRejectedOrReadable) {
  std::vector<std::vector<int32_t>> documents(20);
  for (size_t i = 0; i < documents.size(); ++i) documents[i].assign(i % 7, static_cast<int32_t>(i));
  const fs::path prefix = put_documents("b", documents, 1000);
  const std::string index = read_file(prefix.string() + ".idx");
  int rejected = 0, accepted = 0;
  for (uint64_t i = 0; i < 3000; ++i) {
    std::string damaged = index;
    const Philox4 random = philox(derive_key(5, 0), i);
    for (uint32_t flip = 0; flip <= random[3] % 3; ++flip) {
      char& byte = damaged[random[flip] % damaged.size()];
      byte = static_cast<char>(byte ^ static_cast<char>(1 + (random[flip] >> 20) % 255));
    }
    put("b.idx", damaged);
    try {
      const TokenFile file(prefix);
      EXPECT_EQ(all_tokens(file).size(), static_cast<size_t>(file.tokens()));
      ++accepted;
    } catch (const Error&) {
      ++rejected;
    }
  }
  EXPECT_GT(rejected, 1000);
  EXPECT_GT(accepted, 10);
}

}  // namespace
}  // namespace megalodon::data
