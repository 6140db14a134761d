#include "train/run_config.h"

#include "base/testing.h"
#include "models/classifier_folder.h"

namespace megalodon {
namespace {

/// With bytes as tokens, because the tokenizers that some name are made or fetched first. Classifiers are small enough
/// to be made.
void try_out(const fs::path& path) {
  const RunConfig run = load_run_config(path, {{"data.tokenizer", "bytes"}});
  if (!run.train.classifies()) return;
  const auto model = ClassifierDescription{run.model->clone(), run.classifier, {}}.build();
  AdamW(named_weights(*model), run.optimizer);  // its groups have parameters
}

TEST(Configs, AllAreRunFilesWithoutMistakes) {
  int64_t files = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(MEGALODON_TESTS_DIR).parent_path() / "configs")) {
    EXPECT_EQ(entry.path().extension(), ".toml") << entry.path();
    EXPECT_NO_THROW(try_out(entry.path())) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 0);
}

}  // namespace
}  // namespace megalodon
