// What the trainer does where a run does not go as it should, and what it tells about it.
#include <csignal>
#include <functional>
#include <limits>
#include <set>

#include "base/check.h"
#include "models/weights.h"
#include "train/trainer_testing.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

class TrainingPolicy : public testing::Training {
 protected:
  /// Lets the gradient be infinite in the backward passes that `when` says.
  static void poison(Trainer& trainer, const std::function<bool()>& when) {
    model_of(trainer).parameters()[0].register_hook(
        [when](Tensor gradient) { return when() ? gradient * std::numeric_limits<double>::infinity() : gradient; });
  }
  /// A run whose steps `bad` have infinite gradients.
  Outcome train_poisoned(const RunConfig& run, const std::set<int64_t>& bad) const {
    Trainer t = trainer(run);
    poison(t, [&] { return bad.count(t.step() + 1) > 0; });
    return t.run();
  }
  static Json trainer_json(const RunConfig& run) { return Json::parse(file_of_latest(run, "trainer.json")); }
  std::string printed(const RunConfig& run) const {
    const fs::path path = folder_ / "printed";
    std::FILE* file = std::fopen(path.c_str(), "w");
    Trainer(run, {.out = file}).run();
    std::fclose(file);
    return read_file(path);
  }
};

TEST_F(TrainingPolicy, SkippedUpdatesLeaveTheWeightsAndAreCounted) {
  RunConfig run = busy_run("run");
  run.train.guard.nonfinite = "skip";
  EXPECT_EQ(train_poisoned(run, {3, 4, 9}), Outcome::kFinished);
  const auto list = records(run);
  int64_t skipped = 0;
  for (const Json& record : list) skipped += record.contains("skipped");
  EXPECT_EQ(skipped, 3);
  EXPECT_EQ(list.back()["step"], 12);
  EXPECT_EQ(trainer_json(run)["updates"], 9);
  EXPECT_EQ(trainer_json(run)["more"]["guard"]["skips"], 3);

  // The run that is stopped and resumed around a skipped step is the same one.
  for (const int64_t stop : {2, 3, 4, 9}) {
    RunConfig parts = run;
    parts.train.out = (folder_ / fmt::format("parts{}", stop)).string();
    parts.train.stop_after = stop;
    EXPECT_EQ(train_poisoned(parts, {3, 4, 9}), Outcome::kStopped);
    parts.train.stop_after = 0;
    EXPECT_EQ(train_poisoned(parts, {3, 4, 9}), Outcome::kFinished);
    expect_same_run(run, parts);
  }

  RunConfig hopeless = tiny_run("hopeless");
  hopeless.train.guard.nonfinite = "skip", hopeless.train.guard.max_skips = 2;
  expect_contains(error_of([&] { train_poisoned(hopeless, {2, 3, 4}); }), {"step 4", "train.max_skips"});
}

TEST_F(TrainingPolicy, RollsBackAndGoesOnWithTheNextData) {
  RunConfig run = tiny_run("run");
  run.train.guard.nonfinite = "rollback", run.train.save_every = 3, run.train.eval_every = 4;
  const auto once_at_step_5 = [&](const RunConfig& config) {
    Trainer t = trainer(config);
    bool done = false;
    poison(t, [&] { return t.step() == 4 && !std::exchange(done, true); });
    return t.run();
  };
  EXPECT_EQ(once_at_step_5(run), Outcome::kFinished);
  std::vector<int64_t> steps;
  for (const Json& record : records(run)) {
    if (record.contains("grad_norm")) steps.push_back(record["step"]);
    if (record.contains("rolled_back_from")) {
      EXPECT_EQ(record["rolled_back_from"], 5);
      EXPECT_EQ(record["step"], 3);
      EXPECT_EQ(steps.size(), 3U) << "what the abandoned steps wrote is gone";
    }
  }
  EXPECT_EQ(steps, (std::vector<int64_t>{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}));
  EXPECT_EQ(records(run).back()["eval_loss/valid"].is_number(), true);
  // 5 steps and, from step 3 on, 9 more, of 4 sequences each.
  EXPECT_EQ(trainer_json(run)["loader_position"], 56);
  EXPECT_EQ(trainer_json(run)["more"]["guard"]["rollbacks"], 1);
  EXPECT_EQ(trainer_json(run)["updates"], 12);
  EXPECT_EQ(trainer_json(run)["tokens"], targets(run, 14)) << "the abandoned ones were read too";

  RunConfig parts = run;
  parts.train.out = (folder_ / "parts").string();
  parts.train.stop_after = 7;
  EXPECT_EQ(once_at_step_5(parts), Outcome::kStopped);
  parts.train.stop_after = 0;
  EXPECT_EQ(train(parts), Outcome::kFinished);
  expect_same_run(run, parts);

  RunConfig early = tiny_run("early");
  early.train.guard.nonfinite = "rollback";
  expect_contains(error_of([&] { train_poisoned(early, {2}); }), {"step 2", "no checkpoint"});
  EXPECT_EQ(trainer_json(early)["step"], 1) << "from here on there is one";
}

TEST_F(TrainingPolicy, StopsEarly) {
  RunConfig run = tiny_run("run");
  run.optimizer.lr = 1e-30;  // nothing is learned
  run.train.eval_every = 1, run.train.early_stop_patience = 2;
  expect_contains(printed(run), {"stopped early after step 3", "of step 1"});
  EXPECT_EQ(trainer_json(run)["step"], 3);
  EXPECT_EQ(train(run), Outcome::kEarlyStopped) << "and stays stopped";
  EXPECT_EQ(exit_code(Outcome::kEarlyStopped), 0);
  run.train.early_stop_patience = 4;
  EXPECT_EQ(train(run), Outcome::kEarlyStopped);
  EXPECT_EQ(trainer_json(run)["step"], 5);
}

TEST_F(TrainingPolicy, EarlyStoppingBeginsAnewWithAnotherHeadline) {
  RunConfig run = tiny_run("run");
  run.optimizer.lr = 1e-30;
  run.train.eval_every = 1, run.train.early_stop_patience = 2;
  EXPECT_EQ(train(run), Outcome::kEarlyStopped);
  run.data.valid.push_back("seen=" + run.data.train[0]);
  EXPECT_EQ(printed(run).find("begins anew"), std::string::npos) << "the first set decides";
  EXPECT_EQ(trainer_json(run)["step"], 3);
  std::swap(run.data.valid[0], run.data.valid[1]);
  expect_contains(printed(run), {"data.valid.1.fingerprint is", "data.valid.1.name is \"seen\"", "begins anew",
                                 "stopped early after step 6", "of step 4"});
  run.train.eval_tokens = 32;
  expect_contains(printed(run), {"train.eval_tokens is 32, was 64", "begins anew", "stopped early after step 9"});
}

TEST_F(TrainingPolicy, AnErrorCostsNoStepThatWasApplied) {
  RunConfig whole = tiny_run("whole"), run = tiny_run("run");
  whole.train.eval_every = run.train.eval_every = 5;
  train(whole);
  for (const bool in_evaluation : {true, false}) {
    Trainer broken = trainer(run);
    model_of(broken).set_observer([&](int64_t, const Tensor&) {
      if (model_of(broken).is_training() != in_evaluation && broken.step() == (in_evaluation ? 5 : 8))
        fail("[test] broken");
    });
    EXPECT_EQ(error_of([&] { broken.run(); }), "[test] broken");
    EXPECT_EQ(trainer_json(run)["step"], in_evaluation ? 5 : 8);
    EXPECT_EQ(trainer_json(run)["evaluation_pending"], in_evaluation);
  }
  EXPECT_EQ(train(run), Outcome::kFinished);
  expect_same_run(whole, run);
}

TEST_F(TrainingPolicy, AnEvaluationThatIsOwedIsForgottenWithItsSets) {
  RunConfig run = tiny_run("run");
  run.train.eval_every = 5, run.train.guard.nonfinite = "rollback";
  {
    Trainer broken = trainer(run);
    model_of(broken).set_observer([&](int64_t, const Tensor&) {
      if (!model_of(broken).is_training()) fail("[test] broken");
    });
    EXPECT_EQ(error_of([&] { broken.run(); }), "[test] broken");
  }
  EXPECT_EQ(trainer_json(run)["evaluation_pending"], true);
  run.data.valid.clear(), run.train.eval_every = 0;
  Trainer t = trainer(run);
  bool done = false;
  poison(t, [&] { return t.step() == 5 && !std::exchange(done, true); });
  EXPECT_EQ(t.run(), Outcome::kFinished);
  EXPECT_EQ(trainer_json(run)["more"]["guard"]["rollbacks"], 1);
}

TEST_F(TrainingPolicy, LostMetricsAreStated) {
  RunConfig run = tiny_run("run");
  run.train.stop_after = 4;
  EXPECT_EQ(train(run), Outcome::kStopped);
  fs::remove(fs::path(run.train.out) / "metrics.jsonl");
  run.train.stop_after = 0;
  expect_contains(printed(run), {"metrics.jsonl' lost its last 4 records of steps up to 4"});
}

TEST_F(TrainingPolicy, EvaluatesSeveralSets) {
  RunConfig run = tiny_run("run");
  run.data.valid = {(folder_ / "valid").string(), "seen=" + (folder_ / "train").string()};
  EXPECT_EQ(train(run), Outcome::kFinished);
  const Json last = records(run).back();
  for (const char* key : {"eval_loss/valid", "eval_loss/seen", "perplexity/seen", "bits_per_byte/seen"})
    EXPECT_TRUE(last.contains(key)) << key;
  EXPECT_NE(last["eval_loss/valid"], last["eval_loss/seen"]);
}

TEST_F(TrainingPolicy, AValidationSetThatIsTooShortIsRefusedBeforeTheRun) {
  RunConfig run = tiny_run("run");
  put_documents("short", {std::vector<int32_t>(16, 'x')}, 256);
  run.data.valid.push_back((folder_ / "short").string());
  expect_contains(error_of([&] { trainer(run); }), {"short", "16 tokens"});
  EXPECT_FALSE(fs::exists(run.train.out));
}

TEST_F(TrainingPolicy, StatefulRunsAreEvaluatedWithState) {
  RunConfig run = tiny_run("run");
  run.data.packing = "stateful", run.train.eval_tokens = 0;
  train(run);
  const auto net = load_model(run.train.out).model;
  const data::TokenFile corpus(run.data.valid[0]);
  const data::ByteTokenizer bytes;
  const auto loss = [&](int64_t segment) {
    return evaluate(*net, corpus, bytes, {.batch = 2, .length = 16, .segment = segment})->loss;
  };
  ASSERT_NE(loss(4), loss(1));
  EXPECT_EQ(records(run).back()["eval_loss/valid"], loss(4));
}

TEST_F(TrainingPolicy, EveryStepIsMeasured) {
  RunConfig run = tiny_run("run");
  run.train.measure_peak = true;
  run.train.guard.z_window = 5;
  train(run);
  std::istringstream lines(read_file(fs::path(run.train.out) / "metrics.jsonl"));
  std::string line;
  for (int64_t step = 1; step <= 12; ++step) {
    ASSERT_TRUE(std::getline(lines, line));
    const Json record = Json::parse(line);
    for (const char* key : {"loss", "grad_norm", "lr", "tokens", "tokens_per_s", "step_s", "data_wait_s", "rss_mb",
                            "peak_rss_mb", "share_of_peak", "skips", "rollbacks"})
      EXPECT_TRUE(record[key].is_number()) << key;
    EXPECT_GT(record["share_of_peak"], 0.0);
    EXPECT_EQ(record.contains("loss_z"), step >= 5) << step;
    EXPECT_EQ(record.contains("grad_norm_z"), step >= 5) << step;
  }
}

TEST_F(TrainingPolicy, EventFilesGoWithTheRun) {
  const auto files = [](const RunConfig& run) {
    std::vector<std::string> list;
    const fs::path folder = fs::path(run.train.out) / "tensorboard";
    if (fs::exists(folder))
      for (const auto& entry : fs::directory_iterator(folder)) list.push_back(read_file(entry.path()));
    return list;
  };
  RunConfig run = tiny_run("run");
  run.train.stop_after = 3;
  train(run);
  ASSERT_EQ(files(run).size(), 1U);
  expect_contains(files(run)[0], {"brain.Event:2", "grad_norm", "config", "seq_len = 16"});
  run.train.stop_after = 0;
  train(run);
  EXPECT_EQ(files(run).size(), 2U) << "a resumed run has a file of its own";
  RunConfig without = tiny_run("without");
  without.train.tensorboard = false;
  train(without);
  EXPECT_TRUE(files(without).empty());
}

TEST_F(TrainingPolicy, AResumptionSaysWhatChanged) {
  RunConfig run = tiny_run("run");
  run.train.stop_after = 2;
  train(run);
  run.train.stop_after = 3;
  EXPECT_EQ(printed(run).find("note:"), std::string::npos);
  run.train.stop_after = 4, run.optimizer.lr = 5e-3, run.schedule.warmup = 1, run.train.steps = 8;
  run.train.guard.nonfinite = "skip", run.train.guard.spike_factor = 3, run.train.eval_every = 2;
  expect_contains(printed(run), {"train.spike_factor is 3", "train.eval_every is 2",
                                 "note: optim.lr is 0.005, was 0.01, from step 4 on", "optim.schedule.warmup is 1",
                                 "train.steps is 8, was 12", "train.nonfinite"});
}

TEST_F(TrainingPolicy, AFolderHasOneTrainer) {
  const RunConfig run = tiny_run("run");
  Trainer first = trainer(run);
  expect_contains(error_of([&] { trainer(run); }), {"train.out", "another process"});
  EXPECT_NO_THROW(Trainer(run, {.dry_run = true, .out = null_}).dry_run()) << "a dry run asks for nothing";
  EXPECT_EQ(first.run(), Outcome::kFinished);
}

TEST_F(TrainingPolicy, GraceAbandonsTheStepForTheSaving) {
  const RunConfig whole = tiny_run("whole");
  train(whole);
  RunConfig parts = tiny_run("parts");
  parts.train.grace_seconds = 1e-9;
  for (const int64_t at : {0, 3}) {
    parts.train.stop_after = at;
    if (at > 0) train(parts);
    parts.train.stop_after = 0;
    const SignalGuard guard;
    Trainer t = trainer(parts);
    model_of(t).set_observer([&](int64_t, const Tensor&) { testing::signal_process(SIGTERM); });
    EXPECT_EQ(t.run(), Outcome::kPreempted);
    EXPECT_EQ(t.step(), at) << "two forward passes a step: the second was not begun";
  }
  EXPECT_EQ(train(parts), Outcome::kFinished);
  expect_same_run(whole, parts);
}

}  // namespace
}  // namespace megalodon
