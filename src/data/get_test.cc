#include "data/get.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>

#include "base/hash.h"
#include "data/archive_testing.h"
#include "data/png_testing.h"
#include "data/tokenizer.h"
#include "data/wav_testing.h"

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
  GetResult get_given(const DataSet& set, const std::string& from = "given") {
    notes_.clear();
    const GetEvents events{{}, {}, [this](const std::string& line) { notes_.push_back(line); }};
    return get(set, {folder_ / "out", folder_ / from, {}}, ByteTokenizer(), events);
  }

  std::vector<std::string> notes_;
};

TEST_F(Get, SlicesOfAFile) {
  put("given/all.txt", "0123456789");
  DataSet set = set_of({"all.txt"});
  set.parts = {
      {"train", "download/all.txt", 0, 7}, {"valid", "download/all.txt", 7, 9}, {"test", "download/all.txt", 9}};
  const GetResult result = get_given(set, "given/all.txt");
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

/// A set of the built-in catalogue with an archive of ours in place of the published one.
class GetExamples : public Get {
 protected:
  GetResult get_built_in(const char* name, const std::vector<TarEntry>& entries) {
    DataSet set = find_data_set(builtin_catalog(), name);
    const std::string path = set.files.at(0).path;
    // gzip, whatever the name says, as with lra_release.gz, which is a tar archive too.
    put_tar(folder_ / "archive.tar.gz", entries);
    fs::create_directories(folder_ / "given");
    fs::rename(folder_ / "archive.tar.gz", folder_ / "given" / path);
    set.files = set_of({path}).files;
    return get_given(set);
  }
  ExampleFile made(const char* part) const { return ExampleFile(folder_ / "out" / part); }
};

TEST_F(GetExamples, Cifar10) {
  const auto records = [](int first, int count) {
    std::string file;
    for (int i = first; i < first + count; ++i) {
      file += static_cast<char>(i % 10);
      file += std::string(3072, static_cast<char>(i));
    }
    return file;
  };
  std::vector<TarEntry> entries = {{"cifar-10-batches-bin/test_batch.bin", records(0, 3)}};
  for (int i = 1; i <= 5; ++i)
    entries.push_back({fmt::format("cifar-10-batches-bin/data_batch_{}.bin", i), records(10 * i, 10)});
  const GetResult result = get_built_in("cifar-10", entries);
  EXPECT_TRUE(result.parts.empty());
  ASSERT_EQ(result.examples.size(), 1U);
  EXPECT_EQ(result.examples[0].first, "gray");
  EXPECT_EQ(made("gray/train").size() + made("gray/valid").size(), 50);
  EXPECT_EQ(made("gray/test").size(), 3);
  EXPECT_EQ(made("gray/test").class_names().at(2), "bird");
  EXPECT_EQ(made("gray/test").width(), 1);
  EXPECT_EQ(made("gray/test").longest(), 1024);
}

TEST_F(GetExamples, Imdb) {
  std::vector<TarEntry> entries = {{"aclImdb/README", "no review"}, {"aclImdb/train/urls_neg.txt", "no review"}};
  for (const char* folder : {"test/neg", "test/pos", "train/neg", "train/pos", "train/unsup"})
    for (int i = 0; i < 30; ++i) entries.push_back({fmt::format("aclImdb/{}/{}_1.txt", folder, i), folder});
  const GetResult result = get_built_in("imdb", entries);
  ASSERT_EQ(result.examples.size(), 1U);
  EXPECT_EQ(result.examples[0].first, "reviews");
  EXPECT_EQ(made("reviews/train").size() + made("reviews/valid").size(), 60);
  EXPECT_GT(made("reviews/train").size(), made("reviews/valid").size());
  EXPECT_EQ(made("reviews/test").size(), 60);
  EXPECT_EQ(made("reviews/test").class_names(), (std::vector<std::string>{"neg", "pos"}));
  EXPECT_EQ(made("reviews/test").label(0), 0);
  EXPECT_EQ(made("reviews/test").label(59), 1);
  EXPECT_EQ(made("reviews/train").longest(), 9) << "\"train/neg\"";
  EXPECT_EQ(made("reviews/valid").tokenizer(), ByteTokenizer().describe());
}

TEST_F(GetExamples, SpeechCommands) {
  std::vector<TarEntry> entries = {{"./validation_list.txt", "yes/1.wav\nbed/1.wav\n"},
                                   {"./testing_list.txt", "go/2.wav\nbed/2.wav\n"},
                                   {"./_background_noise_/hum.wav", wav_of({1})}};
  for (const char* word : {"yes", "no", "go", "bed"})
    for (int i = 0; i < 3; ++i) entries.push_back({fmt::format("./{}/{}.wav", word, i), wav_of({1, 2})});
  const GetResult result = get_built_in("speech-commands", entries);
  ASSERT_EQ(result.examples.size(), 2U);
  EXPECT_EQ(made("speech10/train").size(), 7);
  EXPECT_EQ(made("speech10/valid").size(), 1);
  EXPECT_EQ(made("speech10/valid").label(0), 0);
  EXPECT_EQ(made("speech10/test").label(0), 9);
  EXPECT_EQ(made("speech10/test").classes(), 10);
  EXPECT_EQ(made("speech35/train").size(), 8);
  EXPECT_EQ(made("speech35/test").size(), 2);
  EXPECT_EQ(made("speech35/test").class_names(), (std::vector<std::string>{"bed", "go", "no", "yes"}));
  EXPECT_EQ(made("speech35/test").longest(), 16000);
}

TEST_F(GetExamples, LongRangeArena) {
  std::vector<TarEntry> entries;
  const auto add = [&](const std::string& name, const std::string& content) {
    entries.push_back({"lra_release/lra_release/" + name, content});
  };
  for (const char* part : {"train", "val", "test"})
    add(fmt::format("listops-1000/basic_{}.tsv", part), "Source\tTarget\r\n( ( [MAX 1 ) ] )\t1\r\n");
  for (const char* part : {"train", "eval", "test"})
    add(fmt::format("tsv_data/new_aan_pairs.{}.tsv", part), "1.0\t7\t8\tone\tother text\n");
  for (const char* size : {"pathfinder32", "pathfinder128"}) {
    const std::string folder = std::string(size) + "/curv_contour_length_14/";
    std::string metadata;
    for (int i = 0; i < 60; ++i) metadata += fmt::format("imgs/0 sample_{}.png {} {} 1.8\n", i, i, i % 2);
    for (int i = 0; i < 60; ++i) add(fmt::format("{}imgs/0/sample_{}.png", folder, i), png_of(1, 1, "\1"));
    add(folder + "metadata/0.npy", metadata);
  }
  const GetResult result = get_built_in("lra", entries);
  ASSERT_EQ(result.examples.size(), 4U);
  EXPECT_EQ(tokens_of(made("listops/train"), 0), tokens_of(made("listops/test"), 0));
  EXPECT_EQ(made("listops/valid").longest(), 3);
  EXPECT_EQ(made("listops/valid").tokenizer(), make_tokenizer((folder_ / "out/listops").string())->describe());
  EXPECT_EQ(made("aan/valid").sequences(), 2);
  EXPECT_EQ(made("aan/test").length(0, 1), 10);
  EXPECT_EQ(made("aan/test").label(0), 1);
  for (const char* name : {"pathfinder32", "pathfinder128"}) {
    int64_t examples = 0;
    for (const char* part : kParts) examples += made((std::string(name) + "/" + part).c_str()).size();
    EXPECT_EQ(examples, 60);
  }
  entries.pop_back();
  expect_contains(error_of([&] { get_built_in("lra", entries); }), {"pathfinder128", "metadata/N.npy"});
  entries.erase(entries.begin());
  expect_contains(error_of([&] { get_built_in("lra", entries); }),
                  {"\"listops\" of lra", "'listops-1000/basic_train.tsv'", "out/raw'"});
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
