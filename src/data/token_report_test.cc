#include "data/token_report.h"

#include <nlohmann/json.hpp>

#include "data/testing.h"

namespace megalodon::data {
namespace {

class Report : public CorpusTest {};

TEST_F(Report, CountsAndLengths) {
  const TokenFile file(put_documents("a", {{1, 2, 3}, {4}, {1, 2, 3, 4, 5, 6, 7}}, 1000));
  expect_contains(
      to_text(describe(file)),
      {"documents  3", "sequences  3", "tokens     11", "u16", "bytes      22", "marks      not recorded",
       "largest id 7\n", "hash       " + file.fingerprint(), "shortest 1, median 3, longest 7, mean 3.7", "0 empty"});
  const TokenFile none(put_documents("b", {}, 256));
  expect_contains(to_text(describe(none, 3, 5)), {"documents  0", "tokens     0", "u8", "largest id none"});

  std::vector<std::vector<int32_t>> documents;
  for (int i = 0; i <= 100; ++i) documents.emplace_back(static_cast<size_t>(i), 65);
  const TokenReport report = describe(TokenFile(put_documents("c", documents, 256)));
  EXPECT_EQ(report.lengths.p10, 10);
  EXPECT_EQ(report.lengths.median, 50);
  EXPECT_EQ(report.lengths.p99, 99);
  EXPECT_EQ(report.lengths.empty, 1);
}

TEST_F(Report, MarksAndIds) {
  const auto report_of = [&](DocumentMarks marks) {
    TokenFileWriter writer(folder_ / "a", ByteTokenizer(), marks);
    writer.add_document(std::vector<int32_t>{9, 250});
    writer.finish();
    return describe(TokenFile(folder_ / "a"));
  };
  expect_contains(to_text(report_of({})), {"marks      none\n", "largest id 250\n"});
  expect_contains(to_text(report_of({true, false})), {"marks      BOS\n"});
  expect_contains(to_text(report_of({false, true})), {"marks      EOS\n"});
  const TokenReport both = report_of({true, true});
  expect_contains(to_text(both), {"marks      BOS and EOS\n"});
  EXPECT_EQ(to_json(both).at("prepend_bos"), true);
  EXPECT_EQ(to_json(both).at("append_eos"), true);
  EXPECT_EQ(to_json(both).at("largest_token"), 250);
  const TokenReport foreign = describe(TokenFile(put_documents("b", {{1, 255}}, 256)));
  EXPECT_TRUE(to_json(foreign).at("append_eos").is_null());
  EXPECT_EQ(to_json(foreign).at("largest_token"), 255);
  TokenReport negative = foreign;
  negative.range.smallest = -3;
  expect_contains(to_text(negative), {"largest id 255, smallest -3\n"});
  EXPECT_EQ(to_json(negative).at("smallest_token"), -3);
}

TEST_F(Report, SamplesAreSpreadOverTheFileAndDecodedWhereTheTokenizerIsKnown) {
  const TokenFile file(put_documents("a", {{65, 10, 66}, {}, {67, 0xFF, 68, 69}, {70}}, 256));
  const ByteTokenizer bytes;
  const TokenReport report = describe(file, 2, 3, &bytes);
  ASSERT_EQ(report.samples.size(), 2U);
  EXPECT_EQ(report.samples[0].document, 0);
  EXPECT_EQ(report.samples[1].document, 2);
  EXPECT_EQ(report.samples[1].length, 4);
  EXPECT_EQ(report.samples[1].tokens, (std::vector<int64_t>{67, 255, 68}));
  expect_contains(to_text(report), {"document 0 (3 tokens): \"A\\nB\"",
                                    "document 2 (4 tokens): \"C\xEF\xBF\xBD"
                                    "D\""});
  expect_contains(to_text(describe(file, 9, 3)), {"document 0 (3 tokens): 65 10 66\n", "document 1 (0 tokens)", "70"});

  const auto json = nlohmann::json::parse(to_json(report).dump());
  EXPECT_EQ(json.at("tokens"), 8);
  EXPECT_EQ(json.at("document_length").at("longest"), 4);
  EXPECT_EQ(json.at("samples").at(1).at("text"),
            "C\xEF\xBF\xBD"
            "D");

  const TokenFile other(put_documents("b", {{300}}, 1000));
  expect_contains(error_of([&] { describe(other, 1, 1, &bytes); }), {"token 300", "has 256"});
}

}  // namespace
}  // namespace megalodon::data
