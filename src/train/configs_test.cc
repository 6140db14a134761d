#include "train/run_config.h"

#include "base/testing.h"

namespace megalodon {
namespace {

/// With bytes as tokens, because the tokenizers that some name are made or fetched first.
TEST(Configs, AllAreRunFilesWithoutMistakes) {
  int64_t files = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(MEGALODON_TESTS_DIR).parent_path() / "configs")) {
    EXPECT_EQ(entry.path().extension(), ".toml") << entry.path();
    EXPECT_NO_THROW(load_run_config(entry.path(), {{"data.tokenizer", "bytes"}})) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 0);
}

}  // namespace
}  // namespace megalodon
