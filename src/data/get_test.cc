#include "data/get.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/hash.h"
#include "data/testing.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

class Get : public FolderTest {
 protected:
  /// A set of the files put below "given", without archives.
  DataSet set_of(const std::vector<std::string>& names) const {
    DataSet set;
    set.name = "mine";
    for (const std::string& name : names) {
      RemoteFile file;
      file.path = name;
      file.urls = {"https://nowhere.invalid/" + name};
      file.size = file.max_bytes = static_cast<int64_t>(fs::file_size(folder_ / "given" / name));
      file.sha256 = sha256_file(folder_ / "given" / name);
      set.files.push_back(file);
    }
    return set;
  }
  PrepareResult get_given(const DataSet& set, const std::string& from = "given") {
    notes_.clear();
    const GetEvents events{{}, [this](const std::string& line) { notes_.push_back(line); }};
    return get(set, {folder_ / "out", folder_ / from, {}}, ByteTokenizer(), events);
  }

  std::vector<std::string> notes_;
};

TEST_F(Get, SlicesOfAFile) {
  put("given/all.txt", "0123456789");
  DataSet set = set_of({"all.txt"});
  set.parts = {
      {"train", "download/all.txt", 0, 7}, {"valid", "download/all.txt", 7, 9}, {"test", "download/all.txt", 9}};
  const PrepareResult result = get_given(set, "given/all.txt");
  ASSERT_EQ(result.parts.size(), 3U);
  EXPECT_EQ(result.parts[0].tokens, 7);
  EXPECT_EQ(documents_of(folder_ / "out/train"), std::vector<std::string>{"0123456"});
  EXPECT_EQ(documents_of(folder_ / "out/valid"), std::vector<std::string>{"78"});
  EXPECT_EQ(documents_of(folder_ / "out/test"), std::vector<std::string>{"9"});
}

TEST_F(Get, ClearsWhatAKilledRunLeft) {
  put("given/all.txt", "0123456789");
  DataSet set = set_of({"all.txt"});
  set.parts = {{"train", "download/all.txt", 0, 10}};
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ::waitpid(child, nullptr, 0);
  const std::string half = fmt::format("tmp-{}", child);
  for (const char* name : {"out/.train.bin.", "out/.mine.bin.", "out/raw/.all.txt."}) put(name + half, "half");
  get_given(set);
  EXPECT_FALSE(fs::exists(folder_ / ("out/.train.bin." + half)));
  EXPECT_FALSE(fs::exists(folder_ / ("out/raw/.all.txt." + half)));
  EXPECT_TRUE(fs::exists(folder_ / ("out/.mine.bin." + half))) << "none of this set's";
  EXPECT_EQ(std::count_if(notes_.begin(), notes_.end(), [](auto& n) { return n.starts_with("removed 1 "); }), 2);
}

TEST_F(Get, RefusesSlicesOfAShorterFile) {
  put("given/all.txt", "0123456789");
  DataSet set = set_of({"all.txt"});
  set.parts = {{"train", "download/all.txt", 0, 7}, {"valid", "download/all.txt", 7, 11}};
  expect_contains(error_of([&] { get_given(set); }), {"valid", "7 to 11", "has 10"});
  EXPECT_FALSE(fs::exists(folder_ / "out/train.idx")) << "parts are published together";
}

TEST_F(Get, FolderOfBooks) {
  put("given/train/2.txt", "second");
  put("given/train/10.txt", "first by name");
  put("given/test/1.txt", "held out");
  DataSet set = set_of({"train/2.txt", "train/10.txt", "test/1.txt"});
  set.parts = {{"train", "download/train"}, {"test", "download/test"}};
  get_given(set);
  const std::vector<std::string> books = {"first by name", "second"};
  EXPECT_EQ(documents_of(folder_ / "out/train"), books);
  EXPECT_EQ(documents_of(folder_ / "out/test"), std::vector<std::string>{"held out"});
}

TEST_F(Get, GivenFilesAreVerified) {
  put("given/a.txt", "good");
  put("given/b.txt", "good too");
  const DataSet set = set_of({"a.txt", "b.txt"});
  put("given/b.txt", "evil too");
  expect_contains(error_of([&] { get_given(set); }),
                  {"b.txt", "SHA-256", sha256_hex("evil too"), sha256_hex("good too")});
  EXPECT_FALSE(fs::exists(folder_ / "out/download/b.txt"));
  put("given/b.txt", "short");
  expect_contains(error_of([&] { get_given(set); }), {"has 5 bytes, expected 8"});
  fs::remove(folder_ / "given/b.txt");
  expect_contains(error_of([&] { get_given(set); }), {"'b.txt' is not in the folder"});
  expect_contains(error_of([&] { get_given(set, "given/a.txt"); }), {"2 files", "folder"});
}

TEST_F(Get, Md5WhereNothingBetterIsKnown) {
  put("given/a.txt", "message digest");
  DataSet set = set_of({"a.txt"});
  set.files[0].sha256.clear();
  set.files[0].md5 = "f96b697d7cb7938d525a2f31aaf161d0";
  get_given(set);
  put("given/a.txt", "message_digest");
  fs::remove(folder_ / "out/download/a.txt");
  expect_contains(error_of([&] { get_given(set); }), {"MD5", "expected f96b697d7cb7938d525a2f31aaf161d0"});
}

TEST_F(Get, HashOfTheFirstIsRecorded) {
  put("given/a.txt", "the first");
  DataSet set = set_of({"a.txt"});
  set.files[0].sha256.clear();
  set.files[0].size = -1;
  set.files[0].max_bytes = 10;
  get_given(set);
  ASSERT_EQ(notes_.size(), 1U);
  expect_contains(notes_[0], {sha256_hex("the first"), "recorded"});
  EXPECT_EQ(read_file(folder_ / "out/download/a.txt.sha256"), sha256_hex("the first") + "  a.txt\n");
  get_given(set);
  EXPECT_TRUE(notes_.empty()) << "known by now";
  put("given/a.txt", "another");
  fs::remove(folder_ / "out/download/a.txt");
  expect_contains(error_of([&] { get_given(set); }), {"SHA-256", "earlier download"});
  put("given/a.txt", "much too long");
  expect_contains(error_of([&] { get_given(set); }), {"has 13 bytes, the limit is 10"});
}

TEST_F(Get, DamagedDownloadIsReplaced) {
  put("given/a.txt", "good");
  const DataSet set = set_of({"a.txt"});
  get_given(set);
  put("out/download/a.txt", "evil");
  get_given(set);
  ASSERT_EQ(notes_.size(), 1U);
  expect_contains(notes_[0], {"a.txt", "replaced"});
  EXPECT_EQ(read_file(folder_ / "out/download/a.txt"), "good");
}

TEST_F(Get, MissingSource) {
  put("given/a.txt", "text");
  DataSet set = set_of({"a.txt"});
  set.parts = {{"train", "download/b.txt"}};
  expect_contains(error_of([&] { get_given(set); }), {"train", "download/b.txt"});
}

TEST(SplitWikitext, Articles) {
  const std::string first = " \n = One = \n \n Text . \n = N = 4 is no title . \n \n = = Part = = \n \n More . \n";
  const std::string second = " \n = Two = \n \n = Between = text \n = Not after an empty line = \n \n";
  const std::string third = " \n = = = Deep = = = \n = Not before one = \n x \n";
  std::vector<std::string> found;
  const auto add = [&](std::string_view article) { found.emplace_back(article); };
  split_wikitext(first + second + third, add);
  const std::vector<std::string> articles = {first, second + third};
  EXPECT_EQ(found, articles);
  found.clear();
  split_wikitext("= x =\nno article at all", add);
  EXPECT_EQ(found, std::vector<std::string>{"= x =\nno article at all"});
  found.clear();
  split_wikitext("", add);
  EXPECT_TRUE(found.empty());
}

}  // namespace
}  // namespace megalodon::data
