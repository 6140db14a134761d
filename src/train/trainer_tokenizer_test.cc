// Runs on tokens of a SentencePiece model: their checkpoints hold it, and another one is refused.
#include "data/tokenizer_testing.h"
#include "infer/text_model.h"
#include "train/signals.h"
#include "train/trainer_testing.h"

namespace megalodon {
namespace {

class TrainingWithTokenizer : public testing::Training {
 protected:
  void SetUp() override {
    Training::SetUp();
    put("a/tokenizer.model", data::small_model().bytes());
    put("a/tokenizer_config.json", R"({"chat_template": "T"})");
    put("b/tokenizer.model", data::small_model().add("cab", -99).bytes());
    const auto tokenizer = data::make_tokenizer(path("a"));
    for (const char* name : {"train", "valid"}) {
      data::TokenFileWriter writer(folder_ / name, *tokenizer);
      for (int i = 0; i < 20; ++i) writer.add_document(tokenizer->encode(std::string(10 + i, 'a') + " abc bc ab c a"));
      writer.finish();
    }
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }

  RunConfig run_with(const std::string& tokenizer, const std::string& out) const {
    RunConfig run = tiny_run(out);
    config::read(*run.model, {{"vocab_size", 272}}, {}, "test");
    run.data.tokenizer = path(tokenizer);
    run.train.steps = 4, run.train.stop_after = 2, run.train.ema_decay = 0.5;
    return run;
  }
};

TEST_F(TrainingWithTokenizer, CheckpointsHoldIt) {
  const RunConfig run = run_with("a", "run");
  EXPECT_EQ(train(run), Outcome::kStopped);
  fs::remove_all(folder_ / "a");
  const fs::path latest = *RunFolder(run.train.out).latest();
  for (const fs::path& folder : {fs::path(run.train.out), latest / "ema"}) {
    const TextModel loaded = load_text_model(folder);
    EXPECT_EQ(loaded.tokenizer->encode("abc"), (std::vector<int32_t>{269})) << folder;
    EXPECT_EQ(loaded.tokenizer->chat_template(), "T");
  }
  put("b/again", data::small_model().add("cab", -99).bytes());
  fs::copy_file(folder_ / "b/again", latest / "tokenizer.model", fs::copy_options::overwrite_existing);
  expect_contains(error_of([&] { load_text_model(run.train.out); }), {"tokenizer.model"});
}

TEST_F(TrainingWithTokenizer, AnotherOneIsRefused) {
  const RunConfig run = run_with("a", "run");
  EXPECT_EQ(train(run), Outcome::kStopped);
  // Prepared data says whose tokens it holds, and so does the run.
  expect_contains(error_of([&] { train(run_with("b", "other")); }),
                  {"/train'", "sentencepiece", "(270 tokens)", "(271 tokens)"});
  fs::remove(folder_ / "train.json");
  expect_contains(error_of([&] { train(run_with("b", "other")); }), {"/valid'"});
  fs::remove(folder_ / "valid.json");
  expect_contains(error_of([&] { train(run_with("b", "run")); }), {"cannot be continued", "data.tokenizer.sha256"});
  {
    const SignalGuard guard;
    testing::signal_process(SIGTERM);
    EXPECT_THROW(train(run_with("a", "run")), Interrupted) << "reading all ids of what says nothing takes its time";
  }
  // Where the file lies does not matter.
  fs::rename(folder_ / "a", folder_ / "moved");
  EXPECT_EQ(train(run_with("moved", "run")), Outcome::kStopped);
}

}  // namespace
}  // namespace megalodon
