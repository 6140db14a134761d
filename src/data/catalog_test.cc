#include "data/catalog.h"

#include <gtest/gtest.h>

#include <map>

#include "data/testing.h"

namespace megalodon::data {
namespace {

constexpr std::string_view kSmall = R"json({
  "small": {
    "description": "a text", "licence": "CC0", "mirrors": ["https://a.example/x/", "http://b.example/"],
    "files": [{"path": "one/text.zip", "size": 10, "md5": "0123456789abcdef0123456789abcdef"},
              {"path": "two.zip", "max_bytes": 99, "urls": ["https://c.example/elsewhere?id=2"]}],
    "unpack": true, "unpacked_bytes": 1000, "unpacked_files": 3,
    "text": {"train": {"source": "raw/text/text", "end": 8}, "test": {"source": "raw/text/text", "begin": 8}},
    "examples": {
      "reviews": {"kind": "text", "train": "a.tsv", "test": ["b.tsv", "x/c.tsv"], "label": "1", "text": ["2", "3"],
                  "drop": "()", "tokenizer": "words", "classes": ["no", "yes"]},
      "images": {"kind": "records", "train": "a.bin", "valid": 0.25, "pixels": 9, "rgb": "gray"},
      "topics": {"kind": "folders", "train": "topics", "tokenizer": "words"}
    }
  }
})json";

/// The message for kSmall with `from` replaced by `to`.
std::string refusal(std::string_view from, std::string_view to) {
  std::string text(kSmall);
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  text.replace(at, from.size(), to);
  return error_of([&] { parse_catalog(text, "mine.json"); });
}

TEST(Catalog, Fields) {
  const auto catalog = parse_catalog(kSmall, "mine.json");
  ASSERT_EQ(catalog.size(), 1U);
  const DataSet& set = find_data_set(catalog, "small");
  ASSERT_EQ(set.files.size(), 2U);
  const std::vector<std::string> first = {"https://a.example/x/one/text.zip", "http://b.example/one/text.zip"};
  EXPECT_EQ(set.files[0].urls, first);
  EXPECT_EQ(set.files[0].size, 10);
  EXPECT_EQ(set.files[0].max_bytes, 10);
  EXPECT_EQ(set.files[1].urls.front(), "https://c.example/elsewhere?id=2");
  EXPECT_EQ(set.files[1].urls.size(), 3U);
  EXPECT_EQ(set.files[1].size, -1);
  EXPECT_EQ(set.files[1].max_bytes, 99);
  EXPECT_TRUE(set.unpack);
  EXPECT_EQ(set.unpacked_bytes, 1000);
  EXPECT_EQ(set.unpacked_files, 3);
  ASSERT_EQ(set.parts.size(), 2U);
  EXPECT_EQ(set.parts[0].name, "train");
  EXPECT_EQ(set.parts[0].end, 8);
  EXPECT_EQ(set.parts[1].begin, 8);
  EXPECT_EQ(set.parts[1].end, INT64_MAX);
  ASSERT_EQ(set.examples.size(), 3U);
  const ExampleRecipe& reviews = set.examples[0];
  EXPECT_EQ(reviews.name, "reviews");
  EXPECT_EQ(reviews.set.train, std::vector<fs::path>{"a.tsv"});
  EXPECT_EQ(reviews.set.test, (std::vector<fs::path>{"b.tsv", "x/c.tsv"}));
  EXPECT_EQ(reviews.set.classes, (std::vector<std::string>{"no", "yes"}));
  const auto& text = std::get<TextExamples>(reviews.source);
  EXPECT_EQ(text.label, "1");
  EXPECT_EQ(text.text, (std::vector<std::string>{"2", "3"}));
  EXPECT_EQ(text.drop + text.tokenizer, "()words");
  EXPECT_FALSE(text.header);
  EXPECT_EQ(set.examples[1].set.valid_fraction, 0.25);
  const auto& images = std::get<RecordExamples>(set.examples[1].source);
  EXPECT_EQ(images.pixels, 9);
  EXPECT_EQ(images.colours, RecordExamples::Colours::kRgbToGray);
  EXPECT_EQ(set.examples[2].set.train, std::vector<fs::path>{"topics"});
  EXPECT_EQ(std::get<FolderExamples>(set.examples[2].source).tokenizer, "words");
}

TEST(Catalog, Refusals) {
  expect_contains(refusal("\"licence\"", "\"license\""), {"mine.json", "small", "unknown key \"license\"", "licence"});
  expect_contains(refusal("\"description\": \"a text\", ", ""), {"\"description\" is missing"});
  expect_contains(refusal("one/text.zip", "../text.zip"), {"relative path", "../text.zip"});
  expect_contains(refusal("one/text.zip", "/etc/text.zip"), {"relative path"});
  expect_contains(refusal("one/text.zip", "one//text.zip"), {"relative path"});
  expect_contains(refusal("one/text.zip", "one/.hidden"), {"relative path"});
  expect_contains(refusal("one/text.zip", "one/"), {"relative path"});
  expect_contains(refusal("one/text.zip", "one/a b"), {"relative path"});
  expect_contains(refusal("raw/text/text", "../../etc/passwd"), {"relative path", "train"});
  expect_contains(refusal("https://a.example/x/", "file:///etc/"), {"https://", "file:///etc/one/text.zip"});
  expect_contains(refusal("https://a.example/x/", "ftp://a.example/"), {"https://"});
  expect_contains(refusal("https://a.example/x/", "https://a example/"), {"https://"});
  expect_contains(refusal("0123456789abcdef\"", "\""), {"\"md5\" must be 32", "hexadecimal"});
  expect_contains(refusal("0123456789abcdef\"", "0123456789ABCDEF\""), {"\"md5\" must be 32"});
  expect_contains(refusal("\"size\": 10", "\"size\": -1"), {"\"size\" must be a whole number from 0", "-1"});
  expect_contains(refusal("\"size\": 10", "\"size\": 1.5"), {"whole number"});
  expect_contains(refusal("\"size\": 10", "\"size\": 18446744073709551615"), {"whole number"});
  expect_contains(refusal("\"size\": 10, ", ""), {"\"max_bytes\" is missing"});
  expect_contains(refusal("two.zip", "one/text.zip"), {"two files have the path \"one/text.zip\""});
  expect_contains(refusal("\"unpack\": true", "\"unpack\": 1"), {"true or false"});
  expect_contains(refusal("\"begin\": 8", "\"begin\": 8, \"end\": 8"), {"\"end\" must be a whole number from 9"});
  expect_contains(refusal("\"end\": 8", "\"documents\": \"lines\""), {"\"files\" or \"wikitext\"", "lines"});
  expect_contains(refusal("\"small\"", "\"../small\""), {"name"});
  expect_contains(refusal("\"train\"", "\"a/b\""), {"not a name for a part"});
  expect_contains(refusal("\"records\"", "\"record\""), {"examples \"images\"", "\"kind\" must be", "\"record\""});
  expect_contains(refusal("\"gray\"", "\"grey\""), {"\"rgb\" must be", "grey"});
  expect_contains(refusal("\"words\"", "\"a.model\""), {"\"tokenizer\" must be", "a.model"});
  expect_contains(refusal("\"topics\", \"tokenizer\": \"words\"", "\"topics\", \"tokenizer\": \"b.model\""),
                  {"examples \"topics\"", "\"tokenizer\" must be", "b.model"});
  expect_contains(refusal("\"a.tsv\"", "\"../a.tsv\""), {"examples \"reviews\"", "relative path", "../a.tsv"});
  expect_contains(refusal("\"x/c.tsv\"", "7"), {"\"test\" must list texts"});
  expect_contains(refusal("\"train\": \"a.bin\", ", ""), {"examples \"images\"", "\"train\" is missing"});
  expect_contains(refusal("\"images\"", "\"a/b\""), {"not a name for a folder"});
  expect_contains(refusal("\"images\"", "\"raw\""), {"not a name for a folder beside download and raw"});
  expect_contains(refusal("\"images\"", "\"download\""), {"not a name for a folder"});
  expect_contains(refusal("\"pixels\"", "\"steps\""), {"examples \"images\"", "unknown key \"steps\"", "pixels, rgb"});
  expect_contains(refusal("\"drop\"", "\"rgb\""), {"examples \"reviews\"", "unknown key \"rgb\"", "tokenizer"});
  expect_contains(refusal("{\"kind\": \"folders\"", "{\"kind\": \"audio\""), {"unknown key \"tokenizer\"", "steps"});
  expect_contains(refusal("{\"kind\": \"folders\"", "{\"kind\": \"pathfinder\""), {"unknown key \"tokenizer\""});
  expect_contains(refusal("0.25", "1.5"), {"examples \"images\"", "fractions", "1.5"});
  expect_contains(refusal("0.25", "-0.25"), {"examples \"images\"", "fractions", "-0.25"});
  expect_contains(refusal("0.25", "0.5, \"test\": 0.5"), {"examples \"images\"", "fractions", "0.5 and 0.5"});
  expect_contains(refusal("\"label\": \"1\"", "\"label\": \"0\""),
                  {"examples \"reviews\"", "\"label\"", "from 1", "\"0\""});
  expect_contains(refusal("[\"2\", \"3\"]", "[\"2\", \"00\"]"), {"\"text\"", "from 1", "\"00\""});
  expect_contains(refusal("[\"2\", \"3\"]", "[\"2\", \"3\", \"4\"]"),
                  {"\"text\" must list one column, or two", "got 3"});
  expect_contains(refusal("\"unpack\": true, ", ""), {"\"examples\"", "\"unpack\""});
  expect_contains(refusal("{\n", "["), {"mine.json", "not JSON"});
}

TEST(Catalog, UnknownSet) {
  EXPECT_THROW(find_data_set(builtin_catalog(), "enwik"), UsageError);
  expect_contains(error_of([] { find_data_set(builtin_catalog(), "enwik"); }), {"enwik", "enwik8", "text8"});
}

TEST(Catalog, BuiltIn) {
  for (const DataSet& set : builtin_catalog()) {
    for (const RemoteFile& file : set.files) {
      // Plain http is taken from hosts that are known to lack more, and only where a hash says what must arrive.
      EXPECT_TRUE(file.urls.front().starts_with("https://")) << file.path;
      if (set.name != "lra") {
        EXPECT_GT(file.size, 0) << file.path;
        EXPECT_EQ(file.sha256.size(), 64U) << file.path;
      }
    }
    EXPECT_FALSE(set.licence.empty());
  }
  for (const char* name : {"gcide", "enwik8", "text8", "wikitext-103", "pg19-sample", "lra", "imdb", "speech-commands",
                           "cifar-10", "scrolls"})
    EXPECT_NE(list_catalog(builtin_catalog()).find(fmt::format("\n{} ", name)), std::string::npos) << name;
}

TEST(Catalog, Pg19Sample) {
  std::map<std::string, std::pair<int, int64_t>> count;
  for (const RemoteFile& file : find_data_set(builtin_catalog(), "pg19-sample").files) {
    auto& [books, bytes] = count[file.path.substr(0, file.path.find('/'))];
    ++books;
    bytes += file.size;
  }
  EXPECT_EQ(count["test"], std::pair(100, int64_t{41289101}));
  EXPECT_EQ(count["validation"].first, 50);
  EXPECT_EQ(count["train"].first, 40);
}

}  // namespace
}  // namespace megalodon::data
