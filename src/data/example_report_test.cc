#include "data/example_report.h"

#include <nlohmann/json.hpp>

#include "data/testing.h"

namespace megalodon::data {
namespace {

class ExampleReports : public FolderTest {};

TEST_F(ExampleReports, PairsOfText) {
  ExampleWriter writer(folder_ / "set", ByteTokenizer());
  for (const char* text : {"ab", "c", "defg", "\n"}) {
    writer.add_tokens(ByteTokenizer().encode(text));
    if (*text == 'c' || *text == '\n') writer.end_example(*text == 'c' ? 1 : 0);
  }
  writer.finish({3, {"no", "yes", "never"}});
  const ExampleFile file(folder_ / "set");
  const ByteTokenizer bytes;
  expect_contains(
      to_text(describe(file, 2, 3, &bytes)),
      {"examples   2, each a pair", "steps      8", "tokens, U8", "tokenizer  bytes", "largest id 103",
       "hash       " + file.fingerprint(), "shortest 1, median 2, longest 4", "classes    3: no 1, yes 1, never 0\n",
       "example 0, yes (2 steps): \"ab\"\n", "example 1, no (4 steps): \"def\"\n", "\"\\n\"\n"});
  expect_contains(to_text(describe(file, 1, 2)), {"(2 steps): 97 98\n"});
  const auto tree = to_json(describe(file, 5, 9, &bytes));
  EXPECT_EQ(tree.at("classes").at(2).at("examples"), 0);
  EXPECT_EQ(tree.at("samples").size(), 2U);
  EXPECT_EQ(tree.at("samples").at(1).at("sequences").at(0).at("text"), "defg");
}

TEST_F(ExampleReports, Vectors) {
  ExampleWriter writer(folder_ / "set", io::Dtype::F32, 2);
  writer.add_vectors(std::span<const float>(std::vector<float>{0.25F, 1, 2, 3}));
  writer.end_example(41);
  writer.finish({42});
  const std::string text = to_text(describe(ExampleFile(folder_ / "set"), 1, 1));
  expect_contains(
      text, {"examples   1\n", "vectors of 2, F32", "classes    42: 0 0,", "…", "example 0, 41 (2 steps): 0.25 1\n"});
  EXPECT_EQ(text.find("tokenizer"), std::string::npos);
}

}  // namespace
}  // namespace megalodon::data
