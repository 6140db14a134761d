#include "base/toml.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon::config {
namespace {

std::string toml_error(std::string_view text) {
  try {
    parse_toml(text, "run.toml");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Toml, ErrorsHaveAPlace) {
  EXPECT_TRUE(toml_error("a = 1\nb = = 2\n").starts_with("run.toml:2:5: ")) << toml_error("a = 1\nb = = 2\n");
  EXPECT_TRUE(toml_error("a = 1\na = 2\n").starts_with("run.toml:2:")) << toml_error("a = 1\na = 2\n");
  EXPECT_TRUE(toml_error("[a]\n[a]\n").starts_with("run.toml:2:")) << toml_error("[a]\n[a]\n");
  EXPECT_TRUE(toml_error("a = 9223372036854775808").starts_with("run.toml:1:"))
      << toml_error("a = 9223372036854775808");
  EXPECT_TRUE(toml_error("a = 1\nday = 2024-01-01\n").starts_with("run.toml:2:7: dates and times"))
      << toml_error("a = 1\nday = 2024-01-01\n");
  EXPECT_TRUE(toml_error("a = '\xff'").starts_with("run.toml:1:")) << toml_error("a = '\xff'");
  EXPECT_EQ(toml_error("[optim]\nlr = 1e400"),
            "run.toml:2:11: Error while parsing floating-point: '1e400' could not be interpreted as a value");
  EXPECT_EQ(toml_error("lr = 1\nlr = 2"),
            "run.toml:2:6: Error while parsing key-value pair: cannot redefine existing integer 'lr'");
}

TEST(Toml, NestingIsBounded) {
  const auto repeated = [](std::string_view part, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += part;
    return text;
  };
  const std::string parts = "a key has too many parts", levels = "nested deeper than 32 levels";
  EXPECT_EQ(toml_error(repeated("a.", 31) + "a = 1"), "no error");
  EXPECT_EQ(toml_error("x = 1\n" + repeated("a.", 32) + "a = 1"), "run.toml:2: " + parts);
  EXPECT_EQ(toml_error("x = '''\n\n'''\n[" + repeated(R"(a . "b.\"" . )", 100000) + "a]"), "run.toml:4: " + parts);
  EXPECT_EQ(toml_error("x = {" + repeated("'a'.", 100000) + "a = 1}"), "run.toml:1: " + parts);
  EXPECT_EQ(toml_error("x = " + repeated("[", 31) + "1" + repeated("]", 31)), "no error");
  EXPECT_EQ(toml_error("x = " + repeated("[", 70) + repeated("]", 70)), "run.toml:1:37: " + levels);
  EXPECT_TRUE(
      toml_error("[" + repeated("a.", 31) + "a]\nx = {" + repeated("a.", 31) + "a = {a.b.c = 1}}").ends_with(levels));
  EXPECT_NE(toml_error("x = " + repeated("[", 100000)), "no error");
  EXPECT_NE(toml_error("x = " + repeated("{a=", 100000)), "no error");
  // Dots elsewhere are no key's.
  const std::string dots = repeated("a.", 99);
  EXPECT_EQ(toml_error("# " + dots + "\nx = '" + dots + "'\ny = \"\\\"" + dots + "\"\nz = \"\"\"\n" + dots +
                       "\"\"\"\nn = [" + repeated("0.5, ", 99) + "]"),
            "no error");
}

TEST(Toml, HasCharactersBeyondAsciiInQuotesAndComments) {
  EXPECT_EQ(parse_toml("\xef\xbb\xbf# é\nx = 'é' # Ϲ\n\"é\" = \"\"\"a \\\n b é\"\"\"", "run.toml").dump(),
            R"({"x":"é","é":"a b é"})");
  for (const char* text : {"x = 1\né = 1", "x = 1\nx = Ϲ", "x = 1\nx = [1,\u3000 2]", "\nx = 1\u2003"}) {
    EXPECT_EQ(toml_error(text), "run.toml:2: characters beyond ASCII belong in quotes or comments");
  }
  for (const char* text : {"x = \"\"\"a\\\n Ϲ\"\"\"", "x = \"\"\"\n \\Ϲ\"\"\""}) {
    EXPECT_TRUE(toml_error(text).ends_with("a character beyond ASCII after a backslash")) << text;
  }
}

TEST(Toml, WhatTheLibraryTakesForGrantedIsAskedFor) {
  for (const char* text : {"[=]", "[[[day]]]", "[\n]", "day = 1979-05-27Ttrue", "day = 1979-05-27 :"})
    EXPECT_TRUE(toml_error(text).starts_with("run.toml")) << text << ": " << toml_error(text);
  // What follows a name or number is no string to toml++, so that its characters are looked at.
  for (const char* text : {"day = 3958-0{\"-2ɪ", "x = 1\"ɪ\"", "x = 1 \"ɪ\"", "x = a['ɪ']", "x = 'a' 'ɪ'", "x = 1:'ɪ'",
                           "x = 1.'ɪ'", "x = [1.'ɪ']", "x = [{a = 1}, 1.'ɪ']", "x = {a = 1.'ɪ'}", "x.'a' = 1. 'ɪ'"})
    EXPECT_TRUE(toml_error(text).starts_with("run.toml:1: a quote or bracket")) << text << ": " << toml_error(text);
  for (const int count : {100, 101, 115, 117, 1000})
    for (const char* end : {" a", " 12:30:00", ""}) {
      const std::string text = "day = 1979-05-27" + std::string(static_cast<size_t>(count), '_') + end;
      EXPECT_TRUE(toml_error(text).starts_with("run.toml:1")) << text << ": " << toml_error(text);
    }
  EXPECT_EQ(parse_toml("[ a . 'b' ]\nx = [\n[[1], 2],\n [[3]]]\n\t[[\"c\"]]\n[[ c ]]\n", "run.toml").dump(),
            R"({"a":{"b":{"x":[[[1],2],[[3]]]}},"c":[{},{}]})");
  EXPECT_EQ(parse_toml("x.'é' = [{a.\"é\" = [], b.'ü' = 2},\n {}]\n'y'.'é' = 1\n[ z .'é']", "run.toml").dump(),
            R"({"x":{"é":[{"a":{"é":[]},"b":{"ü":2}},{}]},"y":{"é":1},"z":{"é":{}}})");
}

TEST(Toml, TakesManyKeys) {
  std::string text;
  for (int i = 0; i < 200000; ++i) text += fmt::format("k{} = {}\n", i, i);
  const Tree tree = parse_toml(text, "run.toml");
  EXPECT_EQ(tree.size(), 200000u);
  EXPECT_EQ(tree.back(), 199999);
}

TEST(Toml, KeepsTheOrderOfKeys) {
  const Tree tree =
      parse_toml("z = 1\na = 2\n[y.q]\nb = {n = 1, m = 2}\n[c]\n[y.p]\n[[t]]\nk = 1\n[[t]]\n", "run.toml");
  EXPECT_EQ(tree.dump(), R"({"z":1,"a":2,"y":{"q":{"b":{"n":1,"m":2}},"p":{}},"c":{},"t":[{"k":1},{}]})");
}

TEST(Toml, RoundTrip) {
  Tree tree = Tree::parse(R"({
    "first": {"x": 1, "deep": {"y": [1, 2.5, "s", [true], {"k": 1}]}, "none": {}},
    "int": -3, "float": 1.0, "big": 1e300, "third": 0.1, "zero": -0.0, "list": [], "flag": false, "int64": 9223372036854775807,
    "text": "quote \" slash \\ tab \t newline \n bell \u0007 del \u007f é €", "": 1, "a key": 2, "dots.in": 3,
    "section": {"a": {"b": {"c": 1}}, "d": 1, "e": {"f": {}}}, "x.y": {"z": 1}})");
  const std::string text = to_toml(tree);
  const Tree back = parse_toml(text, "copy");
  EXPECT_EQ(back, tree) << text;
  EXPECT_EQ(back.dump(), tree.dump()) << text;  // also tells 1 from 1.0
  EXPECT_EQ(to_toml(back), text);
}

TEST(Toml, WritesSections) {
  const Tree run = Tree::parse(
      R"({"seed": 1, "optim": {"lr": 0.001}, "data": {"path": "x", "mix": ["a", "b"], "inner": {"steps": 100}}})");
  EXPECT_EQ(to_toml(run),
            "seed = 1\n\n[optim]\nlr = 0.001\n\n[data]\npath = \"x\"\nmix = [\"a\", \"b\"]\n\n"
            "[data.inner]\nsteps = 100\n");
  EXPECT_EQ(to_toml(Tree::parse(R"({"a": null, "b": 1})")), "b = 1\n");
  EXPECT_THROW(to_toml(Tree::parse("[null]")), Error);
  EXPECT_THROW(to_toml(Tree::parse(R"({"a": [null]})")), Error);
  EXPECT_THROW(to_toml(Tree{{"a", "\xff"}}), Error);
  EXPECT_THROW(to_toml(Tree::parse(R"({"a": 9223372036854775808})")), Error);
}

}  // namespace
}  // namespace megalodon::config
