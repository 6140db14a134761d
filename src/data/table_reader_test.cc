#include "data/table_reader.h"

#include "data/archive_testing.h"

namespace megalodon::data {
namespace {

using Rows = std::vector<std::vector<std::string>>;

class Tables : public FolderTest {
 protected:
  Rows rows_of(const fs::path& path, bool quotes = false) const {
    TableReader table(path, quotes);
    Rows rows;
    while (const auto* row = table.next()) rows.push_back(*row);
    return rows;
  }
  std::string refusal(const char* name, std::string_view content) const {
    return error_of([&] { rows_of(put(name, content)); });
  }
};

TEST_F(Tables, TabsWithoutQuotes) {
  EXPECT_EQ(rows_of(put("a.tsv", "a\tb\n1\t\"x\"\r\n\t,\n")), (Rows{{"a", "b"}, {"1", "\"x\""}, {"", ","}}));
  EXPECT_EQ(rows_of(put("b.txt",
                        "\xEF\xBB\xBF"
                        "a\tb")),
            (Rows{{"a", "b"}}));
  EXPECT_EQ(rows_of(put_packed(folder_ / "c.tsv.zst", "a\tb\nc\td\n")), (Rows{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(rows_of(put("d.tsv", "\"a\"\"b\"\tc\n"), true), (Rows{{"a\"b", "c"}}));
}

TEST_F(Tables, CommasWithQuotes) {
  const Rows rows = {{"a", "b", ""}, {"1,2", "x\"y", "two\nlines"}, {"", "", "z"}};
  const std::string text = "a,b,\n\"1,2\",\"x\"\"y\",\"two\r\nlines\"\r\n,\"\",z\n";
  EXPECT_EQ(rows_of(put("a.csv", text)), rows);
  EXPECT_EQ(rows_of(put_packed(folder_ / "a.csv.gz", text)), rows);
}

TEST_F(Tables, FieldsInQuotesReachAcrossBlocks) {
  const size_t block = RecordReader::Options().block_bytes;
  std::string lines, doubled;  // of a field, and as it stands in the file
  for (int i = 0; lines.size() < 3 * block; ++i) {
    lines += fmt::format("line {}, of \"many\"\n", i);
    doubled += fmt::format("line {}, of \"\"many\"\"\r\n", i);
  }
  const std::string line(2 * block, 'x');
  EXPECT_EQ(rows_of(put("a.csv", "a,\"" + doubled + "\",z\nb,\"" + line + "\",y\nc,d,e\n")),
            (Rows{{"a", lines, "z"}, {"b", line, "y"}, {"c", "d", "e"}}));
}

TEST_F(Tables, RefusesWithFileLineAndRule) {
  expect_contains(refusal("a.tsv", "a\tb\nc\n"), {"a.tsv', line 2", "2 columns", "got 1"});
  expect_contains(refusal("a.tsv", "a\tb\nc\td\te\n"), {"a.tsv', line 2", "2 columns", "got 3"});
  expect_contains(refusal("a.csv", "a\n\"b\nc\n"), {"a.csv', line 2", "do not close"});
  expect_contains(refusal("a.csv", "a\n\"b\"c\n"), {"a.csv', line 2", "column 1 to end"});
  expect_contains(refusal("a.csv", "\"b\n\"\n1,2\n"), {"a.csv', line 3", "1 columns", "got 2"});
  expect_contains(refusal("a.tar", "a"), {"a.tar", "archive"});
}

}  // namespace
}  // namespace megalodon::data
