#include "base/json.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/testing.h"

namespace megalodon {
namespace {

std::string json_error(std::string_view text) {
  try {
    parse_json(text, "x.json", 4);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(ParseJson, KeepsTheOrderOfKeysWhereAsked) {
  const auto value = parse_json<nlohmann::ordered_json>(R"({"b": [1, {"a": null}], "a": "\u00e9"})", "x.json");
  EXPECT_EQ(value.dump(), R"({"b":[1,{"a":null}],"a":"é"})");
}

TEST(ParseJson, ErrorsNameTheFileTheByteAndTheRule) {
  EXPECT_NE(json_error("[1, 2").find("[x.json] byte 6"), std::string::npos) << json_error("[1, 2");
  EXPECT_NE(json_error("[1] 2").find("not JSON"), std::string::npos);
  EXPECT_NE(json_error("").find("not JSON"), std::string::npos);
  EXPECT_NE(json_error("[\"\xff\"]").find("not JSON"), std::string::npos);
  EXPECT_NE(json_error("[1e999]").find("not JSON"), std::string::npos);
  EXPECT_EQ(json_error(std::string_view("[1]\0[2]", 7)), "[x.json] byte 3: not JSON: a zero byte");
}

TEST(ParseJson, ManyKeysOnlyWhereTheyAreFoundQuickly) {
  std::string text = "{";
  for (int i = 0; i <= 10'000; ++i) text += fmt::format("{}\"k{}\":0", i > 0 ? "," : "", i);
  text += "}";
  EXPECT_EQ(parse_json(text, "x.json").size(), 10'001U);
  try {
    parse_json<nlohmann::ordered_json>(text, "x.json");
    ADD_FAILURE() << "expected an Error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "[x.json] more than 10000 keys in one object");
  }
}

TEST(ParseJson, DepthAndRepeatedKeys) {
  EXPECT_EQ(json_error("[[[[1]]]]"), "");
  EXPECT_NE(json_error("[[[[[1]]]]]").find("more than 4 deep"), std::string::npos);
  EXPECT_NE(json_error(std::string(1 << 20, '[')).find("more than 4 deep"), std::string::npos);
  EXPECT_NE(json_error(R"({"a": 1, "b": {"a": 2}, "a": 3})").find("\"a\" appears twice"), std::string::npos);
  EXPECT_EQ(json_error(R"({"a": 1, "b": {"a": 2}})"), "");
}

TEST(CountAt, IsAWholeNumberOrAnErrorThatNamesFileAndKey) {
  const auto count = [](const char* text) { return count_at(parse_json(text, "x.json"), "n", "x.json"); };
  EXPECT_EQ(count(R"({"n": 0})"), 0);
  EXPECT_EQ(count(R"({"n": 9223372036854775807})"), INT64_MAX);
  for (const char* wrong : {"-1", "1.5", "9223372036854775808", "\"1\"", "null", "true"})
    expect_contains(error_of([&] { count(fmt::format("{{\"n\": {}}}", wrong).c_str()); }), {"[x.json] n ", wrong});
  expect_contains(error_of([&] { count("{}"); }), {"[x.json] n ", "nothing"});
  expect_contains(error_of([&] { count("[1]"); }), {"[x.json] n ", "nothing"});
}

}  // namespace
}  // namespace megalodon
