#include "data/tokenizer.h"

#include <numeric>

#include <nlohmann/json.hpp>

#include "data/testing.h"

namespace megalodon::data {
namespace {

TEST(ByteTokenizer, EveryByteIsATokenAndBack) {
  std::string text(256, '\0');
  std::iota(text.begin(), text.end(), '\0');
  const ByteTokenizer tokenizer;
  const std::vector<int32_t> tokens = tokenizer.encode(text);
  ASSERT_EQ(tokens.size(), 256U);
  std::string back;
  for (int32_t i = 0; i < 256; ++i) {
    EXPECT_EQ(tokens[static_cast<size_t>(i)], i);
    back += tokenizer.decode(i);
  }
  EXPECT_EQ(back, text);
  EXPECT_EQ(tokenizer.decode_text(tokens), text);
  EXPECT_TRUE(tokenizer.encode("").empty());
  expect_contains(error_of([&] { tokenizer.decode(-1); }), {"[0, 256)", "-1"});
  expect_contains(error_of([&] { tokenizer.decode(256); }), {"[0, 256)", "256"});
}

TEST(MakeTokenizer, ByNameAndByDescription) {
  EXPECT_EQ(make_tokenizer("bytes")->vocabulary(), 256);
  EXPECT_EQ(make_tokenizer(std::string("bytes"))->vocabulary(), 256);
  const nlohmann::ordered_json description = make_tokenizer("bytes")->describe();
  EXPECT_EQ(description.dump(), R"({"type":"bytes"})");
  EXPECT_EQ(make_tokenizer(description, "")->describe(), description);
}

TEST(TokenizerDescription, TypeAndHashDecide) {
  using Json = nlohmann::ordered_json;
  const Json bytes = {{"type", "bytes"}};
  const Json a = {
      {"type", "sentencepiece"}, {"file", "tokenizer.model"}, {"sha256", "00112233445566778899"}, {"vocabulary", 7}};
  Json renamed = a, other = a;
  renamed["file"] = "else.model";
  other["sha256"] = "ff112233445566778899";
  EXPECT_TRUE(same_tokenizer(bytes, bytes));
  EXPECT_TRUE(same_tokenizer(a, renamed));
  EXPECT_FALSE(same_tokenizer(a, other));
  EXPECT_FALSE(same_tokenizer(a, bytes));
  EXPECT_FALSE(same_tokenizer(Json(), Json()));
  EXPECT_EQ(tokenizer_text(a), "sentencepiece 001122334455… (7 tokens)");
  EXPECT_EQ(tokenizer_text(bytes), "bytes");
  EXPECT_EQ(tokenizer_text(Json()), "unknown");
  EXPECT_EQ(tokenizer_text({{"type", 3}, {"sha256", 4}}), "unknown");
}

TEST(MakeTokenizer, ErrorsNameTheKnownOnes) {
  EXPECT_THROW(make_tokenizer("words"), UsageError);
  expect_contains(error_of([] { make_tokenizer("words"); }), {"bytes", "words"});
  for (const char* text : {R"({"type":"words"})", R"({"type":7})", "{}", "[]", "null", "\"bytes\""}) {
    const auto description = nlohmann::ordered_json::parse(text);
    expect_contains(error_of([&] { make_tokenizer(description, ""); }), {"bytes"});
  }
}

}  // namespace
}  // namespace megalodon::data
