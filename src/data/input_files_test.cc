#include "data/input_files.h"

#include "data/testing.h"

namespace megalodon::data {
namespace {

class InputFiles : public FolderTest {
 protected:
  std::vector<std::string> names(const std::vector<fs::path>& inputs) const {
    std::vector<std::string> found;
    for (const InputFile& file : find_inputs(inputs)) found.push_back(file.path.lexically_relative(folder_).string());
    return found;
  }
};
using Names = std::vector<std::string>;

TEST_F(InputFiles, TheNameSaysWhatAFileIs) {
  const auto is = [](std::string_view name, Layout layout, Compression compression, bool searched) {
    const FileFormat format = format_of(name);
    EXPECT_EQ(format.layout, layout) << name;
    EXPECT_EQ(format.compression, compression) << name;
    EXPECT_EQ(format.searched, searched) << name;
  };
  is("a.txt", Layout::kText, Compression::kNone, true);
  is("A.TXT.GZ", Layout::kText, Compression::kGzip, true);
  is("a.jsonl.zst", Layout::kJsonLines, Compression::kZstd, true);
  is("a.ndjson.xz", Layout::kJsonLines, Compression::kXz, true);
  is("a.json.gz", Layout::kJsonLines, Compression::kGzip, false);
  is("a.tar", Layout::kTar, Compression::kNone, true);
  is("a.tar.bz2", Layout::kTar, Compression::kBzip2, true);
  is("a.tgz", Layout::kTar, Compression::kGzip, true);
  is("a.tzst", Layout::kTar, Compression::kZstd, true);
  is("README", Layout::kText, Compression::kNone, false);
  is("enwik8.zst", Layout::kText, Compression::kZstd, false);
  is("a.txt.lz4", Layout::kText, Compression::kLz4, true);
  is("", Layout::kText, Compression::kNone, false);
}

TEST_F(InputFiles, FoldersAndPatternsInOrderOfName) {
  for (const char* name :
       {"in/b.txt", "in/a/z.jsonl.gz", "in/c.tar", "in/d.md", "in/e.json", "in/f.bin", "x2.txt", "x1.txt"})
    put(name, "x");
  put("in/empty.txt", "");
  EXPECT_EQ(names({folder_ / "x2.txt", folder_ / "in"}), (Names{"x2.txt", "in/a/z.jsonl.gz", "in/b.txt", "in/c.tar"}));
  EXPECT_EQ(names({folder_ / "x?.txt"}), (Names{"x1.txt", "x2.txt"}));
  EXPECT_EQ(names({folder_ / "i*/[bd].*"}), (Names{"in/b.txt", "in/d.md"}));
  EXPECT_EQ(names({folder_ / "in/*"}),
            (Names{"in/a/z.jsonl.gz", "in/b.txt", "in/c.tar", "in/d.md", "in/e.json", "in/f.bin"}));
  put("odd[1]*.txt", "x");
  EXPECT_EQ(names({folder_ / "odd[1]*.txt"}), (Names{"odd[1]*.txt"})) << "a file's own name comes before patterns";
}

TEST_F(InputFiles, Errors) {
  const fs::path a = put("a.txt", "x");
  put("empty.txt", "");
  fs::create_directory(folder_ / "bare");
  fs::create_symlink("a.txt", folder_ / "link.txt");
  expect_contains(error_of([&] { find_inputs({}); }), {"at least one input"});
  expect_contains(error_of([&] { find_inputs({folder_ / "none.txt"}); }), {"none.txt", "does not exist"});
  expect_contains(error_of([&] { find_inputs({folder_ / "none*"}); }), {"nothing matches", "none*"});
  expect_contains(error_of([&] { find_inputs({folder_ / "empty.txt"}); }), {"empty.txt' is empty"});
  expect_contains(error_of([&] { find_inputs({folder_ / "bare"}); }), {"bare", ".txt"});
  expect_contains(error_of([&] { find_inputs({a, folder_ / "*.txt"}); }), {"named twice"});
  expect_contains(error_of([&] { find_inputs({a, folder_ / "link.txt"}); }), {"link.txt", "named twice"});
  expect_contains(error_of([&] { find_inputs({"/dev/null"}); }), {"/dev/null", "neither"});
}

}  // namespace
}  // namespace megalodon::data
