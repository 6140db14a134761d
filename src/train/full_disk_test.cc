// Whole runs on disks that fail: warnings, the same numbers and the same files once the disk is well, and an error only
// where the end of the run could not be saved or told.
#include <cerrno>
#include <limits>
#include <optional>
#include <stdexcept>

#include "tests/support/faults.h"
#include "train/resume.h"
#include "train/trainer_testing.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;
using faults::Fault;
using faults::Faults;

class FullDisk : public testing::Training {
 protected:
  void SetUp() override {
    Training::SetUp();
    out_ = std::tmpfile();
  }
  void TearDown() override {
    std::fclose(out_);
    Training::TearDown();
  }

  static Fault full(const char* file = "") { return {.at = 0, .error = ENOSPC, .lasting = true, .file = file}; }
  RunConfig run_of(const char* out) const {
    RunConfig run = tiny_run(out);
    run.train.steps = 8, run.train.save_every = 2, run.train.keep = 3, run.train.eval_every = 3;
    return run;
  }
  /// Trains with the fault from the first step after `from` on, until step `to` is done or run() has returned.
  Outcome train_with(const RunConfig& run, const Fault& fault, int64_t from, int64_t to) {
    std::optional<Faults> faults;
    Trainer trainer(run, {.out = out_});
    model_of(trainer).set_observer([&](int64_t, const Tensor&) {
      if (trainer.step() >= to) {
        faults.reset();
      } else if (trainer.step() >= from && !faults) {
        faults.emplace(fault);
      }
    });
    return trainer.run();
  }
  /// What was printed until now.
  std::string printed() const {
    std::string text(static_cast<size_t>(std::ftell(out_)), '\0');
    std::rewind(out_);
    text.resize(std::fread(text.data(), 1, text.size(), out_));
    return text;
  }
  static size_t count(const std::string& text, const std::string& part) {
    size_t found = 0;
    for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
    return found;
  }
  /// The size of what a run shows to TensorBoard: wall times differ, but not in length.
  static uintmax_t event_bytes(const RunConfig& run) {
    uintmax_t bytes = 0;
    for (const auto& entry : fs::directory_iterator(fs::path(run.train.out) / "tensorboard"))
      bytes += entry.file_size();
    return bytes;
  }
  static int64_t step_of_latest(const RunConfig& run) {
    return read_trainer_state(*choose_checkpoint(RunFolder(run.train.out), "auto")).step;
  }

  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();
  std::FILE* out_ = nullptr;
};

TEST_F(FullDisk, ForAWhileLeavesNoTrace) {
  const RunConfig whole = run_of("w"), run = run_of("r");
  train(whole);
  EXPECT_EQ(train_with(run, full(), 2, 7), Outcome::kFinished);
  expect_same_run(whole, run);
  EXPECT_EQ(event_bytes(run), event_bytes(whole));
  EXPECT_EQ(step_of_latest(run), 8);
  const std::string text = printed();
  expect_contains(text, {"warning: step 4 could not be saved", "No space left", "metrics.jsonl' is complete again"});
  EXPECT_EQ(count(text, "warning: cannot write to '" + run.train.out + "/metrics.jsonl': No space left"), 1U) << text;
  EXPECT_EQ(count(text, "warning: cannot write to '" + run.train.out + "/tensorboard/"), 1U) << text;
  EXPECT_EQ(count(text, "is complete again"), 2U) << text;
}

TEST_F(FullDisk, AtTheEndIsAnErrorAndLeavesACheckpoint) {
  const RunConfig run = run_of("run");
  expect_contains(error_of([&] { train_with(run, full(), 7, kNever); }),
                  {"the last step, 8, could not be saved", "No space left"});
  EXPECT_GE(step_of_latest(run), 4);
  const RunConfig whole = run_of("whole");
  train(whole);
  EXPECT_EQ(train(run), Outcome::kFinished);
  expect_same_run(whole, run);
}

TEST_F(FullDisk, LogsThatCannotBeWrittenAreAnErrorAfterTheLastSave) {
  const RunConfig whole = run_of("whole");
  train(whole);
  RunConfig run = run_of("run");
  for (const int64_t stop : {4, 8}) {
    run.train.stop_after = stop;
    const std::string error = error_of([&] { train_with(run, full("metrics.jsonl"), stop - 3, kNever); });
    expect_contains(error, {"metrics.jsonl", "No space left", "records are missing"});
    EXPECT_EQ(error.find("tensorboard"), std::string::npos) << error;
    EXPECT_EQ(step_of_latest(run), stop);
    EXPECT_LT(records(run).size(), static_cast<size_t>(stop));
  }
  EXPECT_EQ(train(run), Outcome::kFinished) << "nothing to do but to write what was missing";
  expect_same_run(whole, run);

  const std::string error = error_of([&] { train_with(run_of("other"), full("tensorboard"), 2, kNever); });
  expect_contains(error, {"events.out.tfevents", "No space left"});
}

TEST_F(FullDisk, ACrashLosesNoRecordThatTheCheckpointCounts) {
  const RunConfig whole = run_of("whole"), run = run_of("run");
  train(whole);
  {
    std::optional<Faults> faults;
    Trainer crashing = trainer(run);
    model_of(crashing).set_observer([&](int64_t, const Tensor&) {
      if (crashing.step() == 2 && !faults) faults.emplace(full("metrics.jsonl"));
      if (crashing.step() == 6) throw testing::Killed();
    });
    EXPECT_THROW(crashing.run(), testing::Killed);
  }
  EXPECT_LE(records(run).size(), 3U);
  EXPECT_EQ(train(run), Outcome::kFinished);
  expect_same_run(whole, run);
}

/// A run whose step after `step` is bad once, or for as long as `times` lasts.
class FullDiskRollback : public FullDisk {
 protected:
  RunConfig run_of(const char* out) const {
    RunConfig run = FullDisk::run_of(out);
    run.train.save_every = 3, run.train.guard.nonfinite = "rollback", run.train.guard.max_skips = 2;
    return run;
  }
  static void spoil(Trainer& trainer, int64_t step, int times) {
    auto left = std::make_shared<int>(2 * times);  // a step calls it twice
    model_of(trainer).parameters()[0].register_hook([&trainer, step, left](Tensor gradient) {
      if (trainer.step() != step || *left == 0) return gradient;
      --*left;
      return gradient * std::numeric_limits<double>::infinity();
    });
  }
};

TEST_F(FullDiskRollback, RecordsOfAbandonedStepsAreNotWrittenLater) {
  const auto train_once_bad = [&](const RunConfig& run, int64_t full_from) {
    std::optional<Faults> faults;
    Trainer t = trainer(run);
    spoil(t, 5, 1);
    model_of(t).set_observer([&](int64_t, const Tensor&) {
      if (t.step() == full_from && !faults) faults.emplace(full("metrics.jsonl"));
      if (t.step() == 7) faults.reset();
    });
    return t.run();
  };
  const RunConfig whole = run_of("whole");
  EXPECT_EQ(train_once_bad(whole, kNever), Outcome::kFinished);
  for (const int64_t full_from : {1, 3, 4}) {
    const RunConfig run = run_of(fmt::format("run{}", full_from).c_str());
    EXPECT_EQ(train_once_bad(run, full_from), Outcome::kFinished);
    expect_same_run(whole, run);
  }
}

TEST_F(FullDiskRollback, OnlyWhatWasPublishedIsGoneBackToAndCounted) {
  RunConfig run = run_of("run");
  run.train.eval_every = 0;
  Trainer t(run, {.out = out_});
  spoil(t, 6, 10);
  std::optional<Faults> faults(full("/.step-00000006."));
  expect_contains(error_of([&] { t.run(); }), {"step 7", "after 2 returns to the same checkpoint"});
  const std::string text = printed();
  EXPECT_EQ(count(text, "back to the checkpoint of step 3"), 2U) << text;
  EXPECT_EQ(count(text, "warning: step 6 could not be saved"), 3U) << text;
  faults.reset();
  EXPECT_EQ(step_of_latest(run), 3);
  EXPECT_EQ(records(run).back()["rollbacks"], 2);
}

TEST_F(FullDiskRollback, SavingTheSameStepAgainIsNoWayForward) {
  const RunConfig run = run_of("run");
  Trainer t(run, {.out = out_});
  spoil(t, 6, 10);
  expect_contains(error_of([&] { t.run(); }), {"step 7", "after 2 returns to the same checkpoint"});
  EXPECT_EQ(count(printed(), "back to the checkpoint of step 6"), 2U);
}

}  // namespace
}  // namespace megalodon
