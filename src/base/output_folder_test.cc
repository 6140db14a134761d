#include "base/output_folder.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/testing.h"

namespace megalodon {
namespace {

class OutputFolderTest : public FolderTest {};

TEST_F(OutputFolderTest, LeavesNothingWhereNothingWasWritten) {
  { const OutputFolder output(folder_ / "a/b/c"); }
  EXPECT_FALSE(fs::exists(folder_ / "a"));
  { const OutputFolder output(folder_ / "a/b/"); }
  EXPECT_FALSE(fs::exists(folder_ / "a"));
}

TEST_F(OutputFolderTest, KeepsWhatHoldsSomethingAndWhatWasThere) {
  fs::create_directory(folder_ / "old");
  {
    const OutputFolder old(folder_ / "old"), output(folder_ / "a/b/c");
    write_file_atomically(folder_ / "a/file", "text");
  }
  EXPECT_TRUE(fs::exists(folder_ / "old"));
  EXPECT_TRUE(fs::exists(folder_ / "a/file"));
  EXPECT_FALSE(fs::exists(folder_ / "a/b"));
}

TEST_F(OutputFolderTest, SaysWhatIsInTheWay) {
  write_file_atomically(folder_ / "file", "text");
  EXPECT_THROW(OutputFolder(folder_ / "file/b"), Error);
  EXPECT_EQ(OutputFolder("").path(), ".");
}

}  // namespace
}  // namespace megalodon
