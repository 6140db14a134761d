#include "data/record_reader.h"

#include "base/philox.h"
#include "data/archive_testing.h"

namespace megalodon::data {
namespace {

class Records : public FolderTest {
 protected:
  struct Found {
    std::string source, text;
    int64_t number;
    bool too_long;
    bool operator==(const Found&) const = default;
  };

  /// Records put together from their pieces.
  std::vector<Found> read(RecordReader& reader) const {
    std::vector<Found> found;
    bool open = false;
    uint64_t position = 0;
    while (const auto block = reader.next()) {
      EXPECT_GE(block->position, position);
      position = block->position;
      for (const Record& record : block->records) {
        EXPECT_EQ(record.first, !open);
        if (record.first) found.push_back({*block->source, "", record.number, record.too_long});
        EXPECT_EQ(found.back().number, record.number);
        found.back().text += block->text.substr(record.begin, record.too_long ? 0 : record.size);
        open = !record.last;
      }
    }
    EXPECT_FALSE(open);
    EXPECT_EQ(position, reader.total_bytes());
    return found;
  }
  std::vector<Found> read(const std::vector<fs::path>& inputs, RecordReader::Options options) const {
    RecordReader reader(find_inputs(inputs), std::move(options));
    return read(reader);
  }
};

/// The documents of a text as they are defined: between separators found from the left, nothing after the last.
std::vector<std::string> divided(std::string_view text, std::string_view separator) {
  std::vector<std::string> documents;
  while (!text.empty()) {
    const size_t found = separator.empty() ? std::string_view::npos : text.find(separator);
    documents.emplace_back(text.substr(0, found));
    text.remove_prefix(found == std::string_view::npos ? text.size() : found + separator.size());
  }
  return documents;
}

TEST_F(Records, AreTheSameWhereverReadingAndBlocksStop) {
  for (uint64_t round = 0; round < 60; ++round) {
    std::string text;
    for (uint64_t i = 0; i < 1 + round * 3; ++i) text += "ab|"[philox(round, i)[0] % 3];
    put("a.txt", text);
    for (const char* separator : {"|", "||", "|a|", ""}) {
      const auto expected = divided(text, separator);
      for (const size_t piece : {size_t{0}, size_t{1}, size_t{5}}) {
        for (const size_t bytes : {size_t{1}, size_t{3}, size_t{1000}}) {
          const auto found = read({folder_ / "a.txt"}, {separator, 1000, piece, bytes, 1 + bytes / 2});
          ASSERT_EQ(found.size(), expected.size()) << text << " " << separator;
          for (size_t i = 0; i < found.size(); ++i) {
            EXPECT_EQ(found[i].text, expected[i]);
            EXPECT_EQ(found[i].number, static_cast<int64_t>(i) + 1);
            EXPECT_FALSE(found[i].too_long);
          }
        }
      }
    }
  }
}

TEST_F(Records, PiecesBeginAtTheDocumentAndAreFull) {
  put("a.txt", "abcdefghij|abcde|abcdef|");
  for (const size_t bytes : {size_t{1}, size_t{7}, size_t{1000}}) {
    RecordReader reader(find_inputs({folder_ / "a.txt"}), {"|", 1000, 5, bytes, 1});
    std::vector<std::string> pieces;
    while (const auto block = reader.next()) {
      for (const Record& record : block->records)
        pieces.push_back(block->text.substr(record.begin, record.size) + (record.last ? "." : ""));
    }
    EXPECT_EQ(pieces, (std::vector<std::string>{"abcde", "fghij.", "abcde.", "abcde", "f."}));
  }
}

TEST_F(Records, LinesWithTheirNumbersAndThoseThatAreTooLong) {
  put("a.jsonl", "one\n\nthree is far too long\nfour\r\n" + std::string(500, 'x') + "\nsix");
  put("b.jsonl", std::string(300, 'y'));
  for (const size_t bytes : {size_t{1}, size_t{9}, size_t{1000}}) {
    const auto found = read({folder_ / "a.jsonl", folder_ / "b.jsonl"}, {"ignored", 10, 5, bytes, 20});
    const std::string a = (folder_ / "a.jsonl").string(), b = (folder_ / "b.jsonl").string();
    EXPECT_EQ(found, (std::vector<Found>{{a, "one", 1, false},
                                         {a, "", 2, false},
                                         {a, "", 3, true},
                                         {a, "four\r", 4, false},
                                         {a, "", 5, true},
                                         {a, "six", 6, false},
                                         {b, "", 1, true}}));
  }
}

TEST_F(Records, ArchivesGiveTheirTextsAndCountTheRest) {
  put_tar(
      folder_ / "a.tar.gz",
      {{"x/one.txt", "1|2"}, {"../lines.jsonl", "{}\n[]\n"}, {"photo.jpg", "?"}, {"more.txt.gz", "?"}, {"e.txt", ""}});
  put("b.txt", "last");
  RecordReader reader(find_inputs({folder_ / "a.tar.gz", folder_ / "b.txt"}), {"|", 1000, 0});
  const auto found = read(reader);
  const std::string tar = (folder_ / "a.tar.gz").string() + ":";
  EXPECT_EQ(found, (std::vector<Found>{{tar + "x/one.txt", "1", 1, false},
                                       {tar + "x/one.txt", "2", 2, false},
                                       {tar + "../lines.jsonl", "{}", 1, false},
                                       {tar + "../lines.jsonl", "[]", 2, false},
                                       {(folder_ / "b.txt").string(), "last", 1, false}}));
  EXPECT_EQ(reader.skipped_entries(), 2);
}

TEST_F(Records, AnotherKindOfDataByMistakeIsAnErrorWithWhatToDo) {
  const auto refusal = [&](const fs::path& path) { return error_of([&] { read({path}, {"", 1000, 0}); }); };
  for (const char* suffix : {".gz", ".zst", ".xz", ".bz2", ".lz4"}) {
    const std::string packed = read_file(put_packed(folder_ / fmt::format("a{}", suffix), "text"));
    expect_contains(refusal(put("b.txt", packed)),
                    {"b.txt", "should hold text", "give it a name that ends in", suffix});
    expect_contains(refusal(put("b.jsonl", packed)), {"b.jsonl", "should hold JSON lines"});
    expect_contains(refusal(put_packed(folder_ / "twice.txt.gz", packed)), {"twice.txt.gz"});
  }
  const std::string tar = read_file(put_tar(folder_ / "a.tar", {{"one.txt", "1"}}));
  expect_contains(refusal(put("b.txt", tar)), {"a tar archive", ".tar"});
  expect_contains(refusal(put("b.txt", "PK\x03\x04....")), {"zip archive", "unpack"});
  expect_contains(refusal(put("b", "PAR1....")), {"Parquet"});
  EXPECT_EQ(read({put("b.txt", "BZh is how a text may begin")}, {"", 1000, 0}).size(), 1U);
}

}  // namespace
}  // namespace megalodon::data
