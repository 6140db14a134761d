#include "data/jsonl.h"

#include "data/testing.h"

namespace megalodon::data {
namespace {

std::string text_of(std::string_view line, std::string_view field = "text") {
  const JsonlText parsed = parse_jsonl_line(line, field);
  EXPECT_EQ(parsed.error, "") << line;
  return parsed.text;
}

std::string refusal_of(std::string_view line, std::string_view field = "text") {
  const JsonlText parsed = parse_jsonl_line(line, field);
  EXPECT_NE(parsed.error, "") << line;
  EXPECT_EQ(parsed.text, "") << line;
  return parsed.error;
}

TEST(Jsonl, TakesTheFieldWhereverItStands) {
  EXPECT_EQ(text_of(R"({"text":"a"})"), "a");
  EXPECT_EQ(text_of(R"( { "id" : 7, "meta": {"text": "inner", "list": [1, {"text": 2}]}, "text" : "a\nb" } )"), "a\nb");
  EXPECT_EQ(text_of(R"({"text":"body","n":[1,-2.5,1e300,null,true]})"), "body");
  EXPECT_EQ(text_of(R"({"text":"a","content":"b"})", "content"), "b");
  EXPECT_EQ(text_of(R"({"text":""})"), "");
  EXPECT_EQ(text_of(R"({"number":123456789012345678901234567890,"text":"a"})"), "a");
  EXPECT_EQ(text_of("{\"text\":\"a\"}\r"), "a");
  EXPECT_EQ(text_of("\xEF\xBB\xBF{\"text\":\"a\"}"), "a");
}

TEST(Jsonl, Escapes) {
  EXPECT_EQ(text_of(R"({"text":"\u00e9\ud83d\ude00\u0000\"\\\/"})"), std::string("é😀\0\"\\/", 10));
  EXPECT_EQ(text_of(R"({"te\u0078t":"a"})"), "a");
  EXPECT_EQ(text_of("{\"text\":\"é😀\"}"), "é😀");
}

TEST(Jsonl, RefusesWithAReason) {
  for (const char* empty : {"", " ", "\r", "\t \r"}) EXPECT_EQ(refusal_of(empty), "the line is empty");
  expect_contains(refusal_of(R"({"id":1})"), {"\"text\" is missing"});
  expect_contains(refusal_of(R"({"meta":{"text":"a"}})"), {"missing"});
  expect_contains(refusal_of(R"({"text":"a","text":"b"})"), {"twice"});
  expect_contains(refusal_of(R"({"text":7})"), {"expected a string", "a number"});
  expect_contains(refusal_of(R"({"text":null})"), {"null"});
  expect_contains(refusal_of(R"({"text":["a"]})"), {"an array"});
  expect_contains(refusal_of(R"({"text":{"a":"b"}})"), {"an object"});
  expect_contains(refusal_of(R"({"text":true})"), {"a truth value"});
  expect_contains(refusal_of(R"("text")"), {"expected a JSON object", "a string"});
  expect_contains(refusal_of("[1]"), {"expected a JSON object", "an array"});
  expect_contains(refusal_of("12"), {"a number"});
  for (const char* broken : {R"({"text":"a")",
                             R"({"text":"a"}})",
                             R"({"text":"a"} {"text":"b"})",
                             R"({'text':'a'})",
                             R"({"text":"a",})",
                             R"({"text":NaN})",
                             R"({"text":"a","x":NaN})",
                             R"({"text":"a","x":Infinity})",
                             R"({"text":"a","x":1e400})",
                             R"({"text":"\ud800"})",
                             R"({"text":"\udc00"})",
                             R"({"text":"\ud800\u0041"})",
                             R"({"text":"\x"})",
                             "{\"text\":\"\xFF\"}",
                             "{\"text\":\"\xC0\x80\"}",
                             "{\"text\":\"\xED\xA0\x80\"}",
                             "{\"text\":\"a\tb\"}",
                             "text",
                             "{",
                             "\xEF\xBB",
                             "\xEF\xBB\xBF"}) {
    refusal_of(broken);
  }
  using namespace std::string_view_literals;
  expect_contains(refusal_of("{\"text\":\"a\0b\"}"sv), {"NUL"});
  expect_contains(refusal_of("{\"text\":\"a\"}\0 anything"sv), {"byte 12", "NUL"});
}

TEST(Jsonl, HostileLinesGiveShortMessages) {
  const std::string open(100000, '[');
  expect_contains(refusal_of("{\"a\":" + open), {"nest deeper than 256"});
  const std::string deep = std::string(200, '[') + std::string(200, ']');
  EXPECT_EQ(text_of("{\"a\":" + deep + ",\"text\":\"b\"}"), "b");
  const std::string long_bad = "{\"text\":\"" + std::string(1 << 20, 'x') + "\x1B[2J\xFF\"}";
  const std::string reason = refusal_of(long_bad);
  EXPECT_LT(reason.size(), 400U);
  EXPECT_EQ(reason.find('\x1B'), std::string::npos);
}

}  // namespace
}  // namespace megalodon::data
