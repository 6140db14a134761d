// Runs on every kind of packing and mixture, stopped and resumed: the same bits as without the stop.
#include "train/trainer_testing.h"

namespace megalodon {
namespace {

struct Kind {
  const char* name;
  const char* packing;
  bool mixed, checkpointing;
};

constexpr Kind kKinds[] = {
    {"stream-mixed", "stream", true, false},       {"documents", "documents", false, false},
    {"documents-mixed", "documents", true, false}, {"stateful", "stateful", false, false},
    {"stateful-mixed", "stateful", true, true},
};

class DataResume : public testing::Training {
 protected:
  /// An epoch is about four steps; checkpoints at every third.
  RunConfig run_of(const Kind& kind, const std::string& suffix) const {
    RunConfig run = tiny_run(kind.name + suffix);
    const std::string a = (folder_ / "train").string(), b = (folder_ / "valid").string();
    run.data.train = {a};
    if (kind.mixed) run.data.train = {a + "*0.7", b + "*0.3"};
    run.data.valid.clear();
    run.data.packing = kind.packing;
    run.train.checkpointing = kind.checkpointing;
    run.train.save_every = 3, run.train.steps = 10;
    return run;
  }
  Outcome train_until(RunConfig run, int64_t step) const {
    run.train.stop_after = step;
    return train(run);
  }
  static void expect_same_end(const RunConfig& a, const RunConfig& b) {
    expect_same_run(a, b);
    if (a.data.packing == "stateful") {
      EXPECT_TRUE(file_of_latest(a, "carry.safetensors") == file_of_latest(b, "carry.safetensors"));
    }
    if (a.train.ema_decay > 0) {
      EXPECT_TRUE(file_of_latest(a, "ema/model.safetensors") == file_of_latest(b, "ema/model.safetensors"));
      EXPECT_FALSE(file_of_latest(a, "ema/model.safetensors") == file_of_latest(a, "model.safetensors"));
    }
  }
};

TEST_F(DataResume, StoppedRunsAreBitIdentical) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    const RunConfig whole = run_of(kind, "-whole"), parts = run_of(kind, "-parts");
    train(whole);
    // In the middle of an epoch, of a segment of stateful rows, at a checkpoint, and at an epoch's edge or around it.
    for (const int64_t stop : {1, 3, 4, 5, 8}) EXPECT_EQ(train_until(parts, stop), Outcome::kStopped);
    EXPECT_EQ(train(parts), Outcome::kFinished);
    expect_same_end(whole, parts);
  }
}

TEST_F(DataResume, ACrashInTheMiddleOfAnAccumulationIsMadeUpFor) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    const RunConfig whole = run_of(kind, "-whole"), parts = run_of(kind, "-parts");
    train(whole);
    for (const int crash : {5, 9, 10, 5}) {  // passes, two a step; each dies after some steps since its beginning
      Trainer run = trainer(parts);
      int layers = 0;
      model_of(run).set_observer([&](int64_t, const Tensor&) {
        if (++layers == 2 * crash + 1) throw testing::Killed();
      });
      EXPECT_THROW(run.run(), testing::Killed);
    }
    EXPECT_EQ(train(parts), Outcome::kFinished);
    expect_same_end(whole, parts);
  }
}

/// What a run may keep beside weights and moments, one by one and all at once.
TEST_F(DataResume, AveragesSeveralSetsAndLowPrecisionAreBitIdentical) {
  struct Extra {
    const char* name;
    void (*add)(RunConfig& run);
  };
  static constexpr auto kAverage = [](RunConfig& r) { r.train.ema_decay = 0.7, r.train.eval_ema = true; };
  static constexpr auto kSets = [](RunConfig& r) {
    for (const std::string name : {"one=", "two="})
      r.data.valid.push_back(name + r.data.train[0].substr(0, r.data.train[0].find('*')));
    r.train.eval_every = 2, r.train.early_stop_patience = 9;
  };
  static constexpr auto kLow = [](RunConfig& r) { r.train.precision = "bfloat16"; };
  static constexpr auto kPolicies = [](RunConfig& r) {
    r.train.guard.skip_grad_z = 1.2, r.train.guard.z_window = 4, r.train.guard.spike_window = 3;
  };
  constexpr Extra kExtras[] = {
      {"average", kAverage},
      {"sets", kSets},
      {"bfloat16", kLow},
      {"policies", kPolicies},
      {"all", [](RunConfig& r) { kAverage(r), kSets(r), kLow(r), kPolicies(r); }},
  };
  for (const Extra& extra : kExtras) {
    SCOPED_TRACE(extra.name);
    RunConfig whole = run_of(kKinds[2], fmt::format("-{}-whole", extra.name));
    RunConfig parts = run_of(kKinds[2], fmt::format("-{}-parts", extra.name));
    extra.add(whole), extra.add(parts);
    train(whole);
    for (const int64_t stop : {1, 4, 5, 8}) EXPECT_EQ(train_until(parts, stop), Outcome::kStopped);
    EXPECT_EQ(train(parts), Outcome::kFinished);
    expect_same_end(whole, parts);
  }
}

TEST_F(DataResume, RecomputedActivationsGiveTheSameStatefulRun) {
  Kind kind = {"stateful", "stateful", false, false};
  const RunConfig stored = run_of(kind, "-stored");
  kind.checkpointing = true;
  const RunConfig recomputed = run_of(kind, "-recomputed");
  train(stored);
  train(recomputed);
  expect_same_end(stored, recomputed);
}

TEST_F(DataResume, TargetsAreCounted) {
  for (const Kind& kind : kKinds) {
    SCOPED_TRACE(kind.name);
    const RunConfig run = run_of(kind, "-counted");
    train_until(run, 4);
    train(run);
    EXPECT_EQ(records(run)[0]["tokens"], targets(run, 1));
    EXPECT_EQ(records(run).back()["tokens"], targets(run, 10));
    EXPECT_LT(targets(run, 10), 10 * 4 * 16) << "ends of documents, and padding, are none";
  }
}

TEST_F(DataResume, OtherDataIsRefused) {
  RunConfig run = run_of(kKinds[0], "");
  train_until(run, 2);
  const auto refused = [&](const auto& change) {
    RunConfig other = run;
    change(other);
    return error_of([&] { train(other); });
  };
  expect_contains(refused([](RunConfig& r) { r.data.packing = "documents"; }), {"data.packing is \"documents\""});
  expect_contains(refused([](RunConfig& r) { r.data.train[0].back() = '6'; }), {"data.train.1.weight is 0.6, was 0.7"});
  expect_contains(refused([](RunConfig& r) { std::swap(r.data.train[0], r.data.train[1]); }),
                  {"data.train.1.fingerprint", "data.train.2.tokens"});
  expect_contains(refused([](RunConfig& r) { r.data.train.pop_back(); }), {"data.train.2.weight is absent"});
  expect_contains(refused([](RunConfig& r) { r.data.seq_len = 8, r.data.batch = 4; }),
                  {"data.seq_len is 8, was 16", "data.batch is 4, was 2"});
  // As many tokens in as many documents, but other ones.
  std::string tokens = read_file(folder_ / "train.bin");
  tokens[100] = 'x';
  put("train.bin", tokens);
  expect_contains(error_of([&] { train(run); }), {"data.train.1.fingerprint is", "--train.out"});

  RunConfig rows = run_of(kKinds[3], "");
  train_until(rows, 2);
  rows.data.segment = 2;
  expect_contains(error_of([&] { train(rows); }), {"data.segment is 2, was"});
}

}  // namespace
}  // namespace megalodon
