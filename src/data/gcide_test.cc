#include <zlib.h>

#include <algorithm>
#include <map>

#include "data/corpus.h"
#include "data/testing.h"

namespace megalodon::data {
namespace {

constexpr std::string_view kFront =
    "\n00-database-short\n   The Dictionary\n\nGCIDE is free software.\n\n      A preface.      --Locke.\n";

class Gcide : public FolderTest {
 protected:
  fs::path put_gzip(std::string_view text) const {
    fs::path path = folder_ / "gcide.dict.dz";
    const gzFile file = gzopen(path.c_str(), "wb1");
    EXPECT_EQ(gzwrite(file, text.data(), static_cast<unsigned>(text.size())), static_cast<int>(text.size()));
    EXPECT_EQ(gzclose(file), Z_OK);
    return path;
  }

  PrepareResult get(std::string_view text) const { return get_gcide(folder_ / "out", ByteTokenizer(), put_gzip(text)); }

  /// The text of all parts, documents in the order of their first entry's number.
  std::map<int, std::string> documents() const {
    std::map<int, std::string> found;
    for (const char* part : {"train", "valid", "test"}) {
      for (const std::string& text : documents_of(folder_ / "out" / part)) {
        EXPECT_EQ(text.substr(0, 4), "Word") << "a document must begin with an entry";
        found[std::stoi(text.substr(4))] = text;
      }
    }
    return found;
  }
};

/// Entries of some 3 KiB; the torn-off next headword stands where `torn` says.
std::string entries(int count, bool torn) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    text += fmt::format("Word{} \\Word\\, n. [See {{Etymon}}.]\n", i);
    for (int line = 0; line < 60; ++line)
      text += fmt::format("   {} text of entry {} and more of it as well\n\n", line, i);
    const bool last = i + 1 == count;
    // After a source tag in another case, after a full stop, or not at all; a last word that is no headword stays.
    const std::string stray = fmt::format(" {}ord{}", i % 2 == 0 ? 'w' : 'W', i + 1);
    text += fmt::format("   {}{}\n\n",
                        i % 3 == 0   ? "[1913 Webster]"
                        : i % 3 == 1 ? "--Chaucer."
                                     : "[PJC] Kept",
                        torn && !last && i % 3 != 2 ? stray : "");
  }
  return text;
}

TEST_F(Gcide, CutsAtEntriesAndRemovesTornHeadwordsAndTheFrontMatter) {
  const PrepareResult result = get(std::string(kFront) + entries(400, true));
  std::string joined;
  size_t largest = 0;
  const std::map<int, std::string> found = documents();
  for (const auto& [first, text] : found) {
    joined += text;
    largest = std::max(largest, text.size());
    if (first != found.rbegin()->first) {
      EXPECT_GE(text.size(), size_t{64} << 10);
    }
  }
  EXPECT_EQ(joined, entries(400, false));
  EXPECT_LT(largest, size_t{70} << 10);
  ASSERT_EQ(result.parts.size(), 3U);
  int64_t tokens = 0;
  for (const auto& part : result.parts) {
    EXPECT_GE(part.documents, 1) << part.name;
    tokens += part.tokens;
  }
  EXPECT_EQ(tokens, static_cast<int64_t>(joined.size()));
}

TEST_F(Gcide, IsTheSameEveryTime) {
  std::map<std::string, std::string> first;
  for (int round = 0; round < 2; ++round) {
    get(std::string(kFront) + entries(200, true));
    for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
      const std::string content = read_file(entry.path());
      EXPECT_EQ(first.emplace(entry.path().filename(), content).first->second, content);
    }
  }
  EXPECT_EQ(first.size(), 9U);  // three parts of three files
}

TEST_F(Gcide, Errors) {
  const fs::path missing = folder_ / "none.dz";
  expect_contains(error_of([&] { get_gcide(folder_ / "out", ByteTokenizer(), missing); }),
                  {"none.dz", "apt-get install dict-gcide"});
  expect_contains(error_of([&] { get(kFront); }), {"no dictionary entry"});
  const fs::path source = put_gzip(std::string(kFront) + entries(200, true));
  const std::string whole = read_file(source);
  for (const size_t size : {whole.size() / 2, whole.size() - 9, whole.size() - 1}) {
    put("gcide.dict.dz", std::string_view(whole).substr(0, size));
    expect_contains(error_of([&] { get_gcide(folder_ / "out", ByteTokenizer(), source); }),
                    {"gcide.dict.dz", "cannot decompress"});
  }
  std::string damaged = whole;
  damaged[damaged.size() - 6] ^= 1;  // the checksum
  put("gcide.dict.dz", damaged);
  expect_contains(error_of([&] { get_gcide(folder_ / "out", ByteTokenizer(), source); }), {"cannot decompress"});
  EXPECT_FALSE(fs::exists(folder_ / "out" / "train.idx"));
}

}  // namespace
}  // namespace megalodon::data
