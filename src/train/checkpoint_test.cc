#include "train/checkpoint.h"

#include "models/weights.h"
#include "train/resume.h"
#include "train/testing.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

class Checkpoint : public testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    model_ = tiny_run("run").model->build();
    model_->init_weights(1);
    optimizer_.emplace(named_weights(*model_), OptimizerConfig{});
    run_.emplace(folder_ / "run");
    run_->open();
  }
  void save(int64_t step, int64_t keep = 100) const {
    TrainerState state;
    state.step = step, state.micro_batches = 2 * step, state.loader_position = 4 * step;
    state.fixed = {{"model", {{"dropout", 0.1}}}};
    run_->save(parts_of(state), step, {.keep = keep});
  }
  FolderParts parts_of(const TrainerState& state) const {
    return checkpoint_parts(model_parts(model_->config(), named_weights(*model_), {{"type", "bytes"}}), *optimizer_,
                            state);
  }
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& entry : fs::directory_iterator(run_->checkpoints()))
      list.push_back(entry.path().filename().string());
    std::sort(list.begin(), list.end());
    return list;
  }

  std::unique_ptr<Model> model_;
  std::optional<AdamW> optimizer_;
  std::optional<RunFolder> run_;
};

TEST_F(Checkpoint, RoundTrip) {
  save(3);
  EXPECT_EQ(read_file(run_->checkpoints() / "latest"), "step-00000003\n");
  ASSERT_TRUE(run_->latest());
  const TrainerState state = read_trainer_state(*run_->latest());
  EXPECT_EQ(state.step, 3);
  EXPECT_EQ(state.micro_batches, 6);
  EXPECT_EQ(state.loader_position, 12);
  EXPECT_FALSE(state.evaluation_pending);
  const LoadedModel loaded = load_model(folder_ / "run");
  for (const auto& item : model_->named_parameters())
    EXPECT_TRUE(torch::equal(loaded.model->named_parameters()[item.key()], item.value())) << item.key();
  EXPECT_EQ(loaded.tokenizer["type"], "bytes");
}

TEST_F(Checkpoint, KeepsTheNewest) {
  for (const int64_t step : {1, 2, 3, 10}) save(step, 2);
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000003", "step-00000010"}));
}

TEST_F(Checkpoint, GoingBackDoesNotDeleteWhatIsNewlyWritten) {
  for (const int64_t step : {5, 10, 15}) save(step);
  const auto abandoned = run_->go_on_from(run_->checkpoints() / "step-00000005", 5);
  EXPECT_EQ(abandoned.size(), 2U);
  EXPECT_EQ(choose_checkpoint(*run_, "auto")->filename(), "step-00000005");
  save(7, 1);
  EXPECT_EQ(names(), (std::vector<std::string>{"abandoned-step-00000010", "abandoned-step-00000015", "latest",
                                               "step-00000007"}));
  EXPECT_EQ(run_->latest()->filename(), "step-00000007");
}

TEST_F(Checkpoint, AnInterruptedSaveLeavesTheOldCheckpoint) {
  save(4);
  // What a crash while writing leaves: an unfinished temporary folder; and one between the folder and `latest`.
  const fs::path unfinished = run_->checkpoints() / ".step-00000005.tmp-123";
  fs::create_directories(unfinished);
  put("run/checkpoints/.step-00000005.tmp-123/model.safetensors", "half of");
  fs::copy(run_->checkpoints() / "step-00000004", run_->checkpoints() / "step-00000006");
  EXPECT_EQ(run_->latest()->filename(), "step-00000004");
  EXPECT_NO_THROW(load_model(folder_ / "run"));
  run_.reset();
  run_.emplace(folder_ / "run");
  run_->open();
  EXPECT_FALSE(fs::exists(unfinished));
  save(6);
  EXPECT_EQ(read_trainer_state(*run_->latest()).step, 6);
}

TEST_F(Checkpoint, AFailingSaveLeavesTheOldCheckpoint) {
  save(4);
  FolderParts parts = parts_of({});
  parts.texts.push_back({"config.json/part", ""});  // below a file: refused after the tensors are written
  EXPECT_ANY_THROW(run_->save(parts, 5, {.keep = 1}));
  EXPECT_EQ(names(), (std::vector<std::string>{"latest", "step-00000004"}));
  EXPECT_EQ(read_trainer_state(*run_->latest()).step, 4);
}

TEST_F(Checkpoint, OneProcessAtATime) {
  RunFolder other(folder_ / "run");
  expect_contains(error_of([&] { other.open(); }), {"another process", "run"});
  run_.reset();
  EXPECT_NO_THROW(other.open());
}

TEST_F(Checkpoint, ChoosesWhereToBegin) {
  EXPECT_FALSE(choose_checkpoint(*run_, "auto"));
  EXPECT_FALSE(choose_checkpoint(*run_, "never"));
  save(2);
  save(3);
  EXPECT_EQ(choose_checkpoint(*run_, "auto")->filename(), "step-00000003");
  expect_contains(error_of([&] { choose_checkpoint(*run_, "never"); }), {"already holds a run", "--resume auto"});
  const std::string older = (run_->checkpoints() / "step-00000002").string();
  EXPECT_EQ(choose_checkpoint(*run_, older)->filename(), "step-00000002");
  EXPECT_EQ(choose_checkpoint(*run_, older + "/")->filename(), "step-00000002");
  expect_contains(error_of([&] { choose_checkpoint(*run_, "nowhere"); }), {"--resume", "nowhere"});
  // Another, empty run folder may begin from here; one with checkpoints of its own may not.
  EXPECT_EQ(choose_checkpoint(RunFolder(folder_ / "other"), older)->filename(), "step-00000002");
  RunFolder other(folder_ / "other");
  other.open();
  TrainerState state;
  other.save(parts_of(state), 0, {});
  expect_contains(error_of([&] { choose_checkpoint(other, older); }), {"another run", "--train.out"});
}

/// The newest step that `auto` finds, and what it says about the choice.
TEST_F(Checkpoint, TheNewestWholeOneIsFoundWhereLatestIsLostOrOld) {
  const auto chosen = [&] {
    const fs::path path = *choose_checkpoint(*run_, "auto");
    return std::pair(read_trainer_state(path).step, note_of_choice(*run_, path));
  };
  using Choice = std::pair<int64_t, std::string>;
  const fs::path latest = run_->checkpoints() / "latest";
  for (const int64_t step : {5, 10}) save(step);
  EXPECT_EQ(chosen(), Choice(10, ""));
  put("run/checkpoints/latest", "step-00000005\n");
  EXPECT_EQ(chosen().first, 10) << "killed between a checkpoint and its name in `latest`";
  expect_contains(chosen().second, {"latest names step-00000005", "step-00000010 is the newest"});
  fs::remove(latest);
  EXPECT_EQ(chosen().first, 10);
  expect_contains(chosen().second, {"latest is missing"});
  expect_contains(error_of([&] { choose_checkpoint(*run_, "never"); }), {"already holds a run"});
  put("run/checkpoints/latest", "step-00000012\n");
  EXPECT_EQ(chosen().first, 10) << "it names nothing";

  // A newer one that is damaged is no choice.
  put("run/checkpoints/step-00000010/trainer.json", "{}");
  put("run/checkpoints/latest", "step-00000005\n");
  EXPECT_EQ(chosen(), Choice(5, ""));
  fs::remove(latest);
  EXPECT_EQ(chosen().first, 5);
  put("run/checkpoints/step-00000005/trainer.json", "{}");
  expect_contains(error_of([&] { choose_checkpoint(*run_, "auto"); }), {"none of the 2 checkpoints", "--train.out"});
}

TEST_F(Checkpoint, WhatWasAbandonedCanBeReturnedTo) {
  for (const int64_t step : {5, 10}) save(step);
  run_->go_on_from(run_->checkpoints() / "step-00000005", 5);
  for (const int64_t step : {10, 11}) save(step);
  const fs::path old = run_->checkpoints() / "abandoned-step-00000010";
  EXPECT_EQ(*choose_checkpoint(*run_, old.string()), old);
  run_->go_on_from(old, 10);
  EXPECT_EQ(names(), (std::vector<std::string>{"abandoned-step-00000010.2", "abandoned-step-00000011", "latest",
                                               "step-00000005", "step-00000010"}));
  EXPECT_EQ(run_->latest()->filename(), "step-00000010");
}

TEST_F(Checkpoint, AnotherRunsMetricsAreNotContinued) {
  save(2);
  const std::string checkpoint = (run_->checkpoints() / "step-00000002").string();
  put("other/metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n");
  expect_contains(error_of([&] { choose_checkpoint(RunFolder(folder_ / "other"), checkpoint); }),
                  {"another run", "metrics", "--train.out"});
  put("run/metrics.jsonl", "{\"step\":1}\n{\"step\":2}\n");
  EXPECT_EQ(choose_checkpoint(*run_, checkpoint)->string(), checkpoint) << "its own are";
}

TEST_F(Checkpoint, DifferencesAreListed) {
  const Json was = {{"model", {{"dropout", 0.1}, {"old", 1}}}, {"data", {{"batch", 2}}}};
  const Json is = {{"model", {{"dropout", 0.2}, {"new", true}}}, {"data", {{"batch", 2}}}};
  EXPECT_EQ(differences(was, is),
            (std::vector<std::string>{"model.dropout is 0.2, was 0.1", "model.new is true, was absent",
                                      "model.old is absent, was 1"}));
  EXPECT_TRUE(differences(was, was).empty());
}

TEST_F(Checkpoint, ADamagedTrainerStateIsRefused) {
  const fs::path folder = folder_ / "broken";
  fs::create_directories(folder);
  expect_contains(error_of([&] { read_trainer_state(folder); }), {"trainer.json"});
  put("broken/trainer.json", "");
  expect_contains(error_of([&] { read_trainer_state(folder); }), {"trainer.json", "not JSON"});
  for (const char* text : {"[]", "{\"format_version\": 1}"}) {
    put("broken/trainer.json", text);
    expect_contains(error_of([&] { read_trainer_state(folder); }), {"trainer.json", "damaged"});
  }
  const Json whole = {{"format_version", 2},
                      {"step", 3},
                      {"updates", 3},
                      {"micro_batches", 6},
                      {"loader_position", 12},
                      {"tokens", 9},
                      {"records", 3},
                      {"unwritten", Json::array()},
                      {"fixed", Json::object()},
                      {"environment", Json::object()},
                      {"settings", Json::object()}};
  put("broken/trainer.json", whole.dump());
  EXPECT_EQ(read_trainer_state(folder).tokens, 9);
  for (const char* key : {"step", "updates", "micro_batches", "loader_position", "tokens", "records", "unwritten"})
    for (const Json& bad : {Json(-1), Json("3"), Json(1.5)}) {
      Json damaged = whole;
      damaged[key] = bad;
      put("broken/trainer.json", damaged.dump());
      expect_contains(error_of([&] { read_trainer_state(folder); }), {"trainer.json", key});
    }
}

}  // namespace
}  // namespace megalodon
