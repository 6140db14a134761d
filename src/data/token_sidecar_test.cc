#include "data/token_sidecar.h"

#include "data/testing.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

class TokenSidecars : public CorpusTest {};

/// A tokenizer that is only a description.
class OtherTokenizer final : public Tokenizer {
 public:
  int64_t vocabulary() const override { return 300; }
  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::string decode(int32_t) const override { return {}; }
  std::string decode_text(std::span<const int32_t>) const override { return {}; }
  nlohmann::ordered_json describe() const override {
    return {{"type", "sentencepiece"}, {"file", "tokenizer.model"}, {"sha256", fingerprint()}, {"vocabulary", 300}};
  }
  std::string fingerprint() const override { return std::string(64, 'a'); }
};

TEST_F(TokenSidecars, RememberTheirTokenizer) {
  const auto write = [&](const Tokenizer& tokenizer) {
    TokenFileWriter writer(folder_ / "a", tokenizer);
    writer.add_document(std::vector<int32_t>{1, 2});
    writer.finish();
    return TokenFile(folder_ / "a");
  };
  const ByteTokenizer bytes;
  const OtherTokenizer other;
  const TokenFile of_bytes = write(bytes), of_other = write(other);
  EXPECT_EQ(of_bytes.tokenizer(), bytes.describe());
  EXPECT_EQ(of_other.tokenizer(), other.describe());
  EXPECT_EQ(read_file(folder_ / "a.json"), nlohmann::ordered_json({{"format", "megalodon.cpp tokens"},
                                                                   {"format_version", 1},
                                                                   {"tokenizer", other.describe()},
                                                                   {"documents", 1},
                                                                   {"tokens", 2},
                                                                   {"prepend_bos", false},
                                                                   {"append_eos", false},
                                                                   {"largest_token", 2}})
                                                   .dump(2) +
                                               "\n");
  check_tokenizer(of_bytes, bytes);
  check_tokenizer(of_other, other);
  expect_contains(error_of([&] { check_tokenizer(of_other, bytes); }), {"/a'", "aaaaaaaaaaaa… (300", "bytes"});
  error_of([&] { check_tokenizer(of_bytes, other); });

  const TokenFile silent(put_documents("a", {{1}}, 300));
  EXPECT_TRUE(silent.tokenizer().is_null());
  EXPECT_FALSE(fs::exists(folder_ / "a.json"));
  check_tokenizer(silent, bytes);
}

TEST_F(TokenSidecars, RememberMarksAndTheLargestTokenWhereTheyAreRecorded) {
  const ByteTokenizer bytes;
  for (const DocumentMarks marks : {DocumentMarks{}, DocumentMarks{true, false}, DocumentMarks{false, true}}) {
    TokenFileWriter writer(folder_ / "a", bytes, marks);
    writer.add_document(std::vector<int32_t>{7, 200, 1});
    writer.add_document(std::vector<int32_t>{3});
    writer.finish();
    const TokenFile file(folder_ / "a");
    EXPECT_EQ(file.marks(), marks);
    EXPECT_EQ(file.range([](uint64_t, uint64_t) { ADD_FAILURE() << "no need to read"; }).largest, 200);
  }
  put("a.json", sidecar_text({bytes.describe(), 2, 4}));
  const TokenFile older(folder_ / "a");
  EXPECT_EQ(older.marks(), std::nullopt);
  uint64_t read = 0;
  EXPECT_EQ(older.range([&](uint64_t done, uint64_t) { read = done; }).largest, 200);
  EXPECT_EQ(read, 4U);
}

TEST_F(TokenSidecars, RefuseADescriptionOfOtherTokens) {
  const ByteTokenizer bytes;
  put_documents("a", {{1, 2}}, 256);
  const auto rejection_of = [&](const std::string& text) {
    put("a.json", text);
    return error_of([&] { TokenFile file(folder_ / "a"); });
  };
  put("a.json", sidecar_text({bytes.describe(), 1, 2}));
  EXPECT_EQ(TokenFile(folder_ / "a").tokenizer(), bytes.describe());
  put("a.json", sidecar_text({bytes.describe(), 1, 3}));
  expect_contains(error_of([&] { TokenFile file(folder_ / "a"); }), {"a.json", "3 tokens", "has 2"});
  expect_contains(rejection_of("{}"), {"a.json", "move what is there away"});
  expect_contains(rejection_of("[1]"), {"move what is there away"});
  expect_contains(rejection_of("{\"text\": 1}\n{}"), {"a.json", "not JSON"});
  expect_contains(rejection_of(R"({"format": "megalodon.cpp tokens", "format_version": 2})"), {"format_version 1"});
  expect_contains(rejection_of(R"({"format": "megalodon.cpp tokens", "format_version": 1})"), {"\"tokenizer\""});
  const std::string head = R"({"format": "megalodon.cpp tokens", "format_version": 1, "tokenizer": {}, )";
  expect_contains(rejection_of(head + R"("documents": -1, "tokens": 2})"), {"a.json", "documents", "-1"});
  expect_contains(rejection_of(head + R"("documents": 1})"), {"a.json", "tokens", "nothing"});
  const std::string counted = head + R"("documents": 1, "tokens": 2, )";
  expect_contains(rejection_of(counted + R"("prepend_bos": true})"), {"a.json", "append_eos", "null"});
  expect_contains(rejection_of(counted + R"("prepend_bos": 1, "append_eos": true})"), {"a.json", "prepend_bos", "1"});
  expect_contains(rejection_of(counted + R"("largest_token": -1})"), {"a.json", "largest_token", "-1"});
  expect_contains(rejection_of(std::string(2 << 20, ' ')), {"this large"});
  // Nor is a file of another kind written over.
  error_of([&] { TokenFileWriter writer(folder_ / "a", bytes); });
}

}  // namespace
}  // namespace megalodon::data
