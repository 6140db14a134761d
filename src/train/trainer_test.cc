#include <csignal>
#include <limits>

#include "models/weights.h"
#include "train/trainer_testing.h"

namespace megalodon {
namespace {

using testing::Training;

TEST_F(Training, WritesTheRunFolder) {
  const RunConfig run = busy_run("run");
  EXPECT_EQ(train(run), Outcome::kFinished);
  const auto list = records(run);
  ASSERT_EQ(list.size(), 12U + 3U);
  EXPECT_EQ(list[0]["step"], 1);
  EXPECT_EQ(list[0]["tokens"], targets(run, 1));
  EXPECT_EQ(list.back()["step"], 12);
  EXPECT_TRUE(list.back().contains("eval_loss/valid"));
  EXPECT_EQ(to_toml(load_run_config(fs::path(run.train.out) / "config.toml", {})), to_toml(run));
  EXPECT_NO_THROW(load_model(run.train.out));
  EXPECT_EQ(train(run), Outcome::kFinished) << "a finished run is not repeated";
  EXPECT_EQ(records(run), list);
}

TEST_F(Training, ResumedRunsAreBitIdentical) {
  const RunConfig whole = busy_run("whole");
  train(whole);
  // Early, at a checkpoint, at an evaluation and before the fifth step, within which an epoch ends, and twice.
  for (const std::vector<int64_t>& stops : {std::vector<int64_t>{1}, {3}, {4}, {5, 9}}) {
    RunConfig parts = busy_run(fmt::format("parts{}", stops[0]));
    for (const int64_t stop : stops) {
      parts.train.stop_after = stop;
      EXPECT_EQ(train(parts), Outcome::kStopped);
    }
    parts.train.stop_after = 0;
    EXPECT_EQ(train(parts), Outcome::kFinished);
    expect_same_run(whole, parts);
  }
}

TEST_F(Training, StateSpacesResumeBitIdenticallyToo) {
  const auto s4_run = [&](const std::string& out, bool low_rank) {
    RunConfig run = busy_run(out);
    run.arch = "s4", run.model = make_config("s4");
    config::read(*run.model,
                 {{"num_layers", 2}, {"model_dim", 16}, {"state_dim", 8}, {"vocab_size", 256}, {"dropout", 0.1}}, {},
                 "test");
    if (low_rank)
      config::read(*run.model,
                   {{"kernel", "s4"}, {"init", "legs"}, {"discretization", "bilinear"}, {"kernel_length", 12}}, {},
                   "test");
    run.data.packing = low_rank ? "stateful" : "documents";
    return run;
  };
  for (const bool low_rank : {false, true}) {
    const RunConfig whole = s4_run(fmt::format("whole{}", low_rank), low_rank);
    train(whole);
    EXPECT_LT(records(whole).back()["eval_loss/valid"].get<double>(), records(whole)[0]["loss"].get<double>());
    RunConfig parts = s4_run(fmt::format("parts{}", low_rank), low_rank);
    parts.train.stop_after = 5;
    EXPECT_EQ(train(parts), Outcome::kStopped);
    parts.train.stop_after = 0;
    EXPECT_EQ(train(parts), Outcome::kFinished);
    expect_same_run(whole, parts);
    EXPECT_EQ(load_model(whole.train.out).model->config().architecture(), "s4");
  }
}

TEST_F(Training, EvaluatingSamplingAndSavingChangeNothing) {
  const RunConfig busy = busy_run("busy");
  train(busy);
  RunConfig quiet = tiny_run("quiet");
  quiet.data.valid.clear();
  train(quiet);
  EXPECT_TRUE(file_of_latest(busy, "model.safetensors") == file_of_latest(quiet, "model.safetensors"));
}

TEST_F(Training, RecomputedActivationsGiveTheSameRun) {
  const RunConfig stored = tiny_run("stored");
  train(stored);
  RunConfig recomputed = tiny_run("recomputed");
  recomputed.train.checkpointing = true;
  train(recomputed);
  expect_same_run(stored, recomputed);
}

TEST_F(Training, ARunGoesBackToAnOlderCheckpoint) {
  const RunConfig whole = busy_run("whole");
  train(whole);
  RunConfig parts = busy_run("parts");
  parts.train.keep = 10;
  train(parts);
  const fs::path older = RunFolder(parts.train.out).checkpoints() / "step-00000006";
  RunConfig stopped = parts;
  stopped.train.stop_after = 7;
  EXPECT_EQ(train(stopped, older.string()), Outcome::kStopped);
  EXPECT_EQ(records(stopped).back()["step"], 7);
  EXPECT_EQ(RunFolder(parts.train.out).latest()->filename(), "step-00000007");
  EXPECT_EQ(train(parts), Outcome::kFinished);
  expect_same_run(whole, parts);
}

TEST_F(Training, ALostLatestCostsNothing) {
  const RunConfig whole = busy_run("whole");
  train(whole);
  RunConfig parts = busy_run("parts");
  parts.train.stop_after = 7;
  train(parts);
  const fs::path latest = RunFolder(parts.train.out).checkpoints() / "latest";
  parts.train.stop_after = 0;
  const auto train_from = [&](int64_t step) {
    fs::remove(latest);
    Trainer run = trainer(parts);
    EXPECT_EQ(run.step(), step);
    EXPECT_EQ(run.run(), Outcome::kFinished);
  };
  train_from(7);
  expect_same_run(whole, parts);
  train_from(12);
  EXPECT_TRUE(fs::exists(latest)) << "also where there is nothing left to do";
}

TEST_F(Training, SignalsEndTheRunAfterTheStep) {
  const RunConfig whole = busy_run("whole");
  train(whole);
  const RunConfig parts = busy_run("parts");
  const std::vector<std::pair<int, Outcome>> signals = {
      {SIGTERM, Outcome::kPreempted}, {SIGUSR1, Outcome::kPreempted}, {SIGINT, Outcome::kInterrupted}};
  int64_t step = 0;
  for (const auto& [signal, outcome] : signals) {
    const SignalGuard guard;
    Trainer run = trainer(parts);
    bool raised = false;
    model_of(run).set_observer([&, signal = signal](int64_t, const Tensor&) {
      if (!std::exchange(raised, true)) testing::signal_process(signal);
    });
    EXPECT_EQ(run.run(), outcome);
    EXPECT_EQ(run.step(), ++step);
  }
  train(parts);
  expect_same_run(whole, parts);
  EXPECT_EQ(exit_code(Outcome::kPreempted), 75);
  EXPECT_EQ(exit_code(Outcome::kInterrupted), 130);
  EXPECT_EQ(exit_code(Outcome::kFinished), 0);
}

TEST_F(Training, AnInterruptedEvaluationIsMadeUpFor) {
  RunConfig whole = busy_run("whole"), parts = busy_run("parts");
  whole.train.eval_every = parts.train.eval_every = 3;
  whole.data.batch = parts.data.batch = 1;  // four batches of evaluation
  train(whole);
  for (const int64_t stop : {3, 12}) {
    const SignalGuard guard;
    Trainer run = trainer(parts);
    model_of(run).set_observer([&](int64_t, const Tensor&) {
      if (!model_of(run).is_training() && run.step() == stop) testing::signal_process(SIGTERM);
    });
    EXPECT_EQ(run.run(), Outcome::kPreempted);
    EXPECT_EQ(run.step(), stop);
    EXPECT_FALSE(records(parts).back().contains("eval_loss/valid"));
  }
  EXPECT_EQ(train(parts), Outcome::kFinished);
  expect_same_run(whole, parts);
}

TEST_F(Training, ANonFiniteLossStopsBeforeTheUpdate) {
  const RunConfig run = tiny_run("run");
  Trainer poisoned = trainer(run);
  std::vector<Tensor> before;
  {
    torch::NoGradGuard no_grad;
    model_of(poisoned).parameters()[0].fill_(std::numeric_limits<float>::quiet_NaN());
    for (const Tensor& parameter : model_of(poisoned).parameters()) before.push_back(parameter.clone());
  }
  expect_contains(error_of([&] { poisoned.run(); }), {"step 1", "loss", "nan", "not applied"});
  EXPECT_EQ(poisoned.step(), 0);
  const auto after = model_of(poisoned).parameters();
  for (size_t i = 1; i < before.size(); ++i) EXPECT_TRUE(torch::equal(before[i], after[i])) << i;
  EXPECT_FALSE(RunFolder(run.train.out).latest());
  EXPECT_TRUE(records(run).empty());
}

TEST_F(Training, ANonFiniteGradientStopsBeforeTheUpdate) {
  RunConfig run = tiny_run("run");
  Trainer poisoned = trainer(run);
  int64_t calls = 0;
  Tensor parameter = model_of(poisoned).parameters()[0];
  parameter.register_hook([&](Tensor gradient) {
    return ++calls > 2 ? gradient * std::numeric_limits<double>::infinity() : gradient;  // two calls a step
  });
  expect_contains(error_of([&] { poisoned.run(); }), {"step 2", "gradient", "not applied"});
  EXPECT_EQ(poisoned.step(), 1);
  EXPECT_TRUE(parameter.isfinite().all().item<bool>());
}

TEST_F(Training, EveryStepDrawsItsOwnDropout) {
  const auto first_losses = [&](const char* out, double dropout) {
    RunConfig run = tiny_run(out);
    config::read(*run.model, {{"dropout", dropout}, {"hidden_dropout", 0.0}, {"attention_dropout", 0.0}}, {}, "test");
    run.optimizer.lr = 1e-30;  // the same weights and, below, the same batch: only the masks can differ
    run.train.steps = 2;
    trainer(run, "auto", /*overfit=*/true).run();
    return std::pair(records(run)[0]["loss"].get<double>(), records(run)[1]["loss"].get<double>());
  };
  const auto with = first_losses("with", 0.3), without = first_losses("without", 0.0);
  EXPECT_NE(with.first, with.second);
  EXPECT_EQ(without.first, without.second);
}

TEST_F(Training, OverfitsOneBatch) {
  RunConfig run = tiny_run("run");
  config::read(*run.model, {{"dropout", 0.0}, {"hidden_dropout", 0.0}, {"attention_dropout", 0.0}}, {}, "test");
  run.data.valid.clear();
  run.train.accumulate = 1, run.train.steps = 120, run.train.save_every = 0;
  run.optimizer.lr = 3e-2;
  EXPECT_EQ(trainer(run, "auto", /*overfit=*/true).run(), Outcome::kFinished);
  EXPECT_LT(records(run).back()["loss"].get<double>(), 0.05);
}

TEST_F(Training, KeepsTheLastCheckpoints) {
  RunConfig run = tiny_run("run");
  run.train.steps = 5, run.train.save_every = 1, run.train.keep = 2;
  train(run);
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(RunFolder(run.train.out).checkpoints()))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"latest", "step-00000004", "step-00000005"}));
}

TEST_F(Training, RefusesToContinueADifferentRun) {
  RunConfig run = tiny_run("run");
  run.train.stop_after = 2;
  train(run);
  const auto refused = [&](const auto& change) {
    RunConfig other = run;
    change(other);
    return error_of([&] { train(other); });
  };
  expect_contains(refused([](RunConfig& r) {
                    config::read(*r.model, {{"dropout", 0.5}}, {}, "test");
                  }),
                  {"--resume", "model.dropout is 0.5, was 0.1", "--train.out"});
  expect_contains(refused([](RunConfig& r) { r.train.seed = 5, r.data.batch = 4, r.train.accumulate = 1; }),
                  {"train.seed is 5, was 0", "data.batch is 4, was 2", "train.accumulate is 1, was 2"});
  expect_contains(refused([](RunConfig& r) { r.data.train = r.data.valid; }),
                  {"data.train.1.fingerprint", "data.train.1.tokens"});
  expect_contains(error_of([&] { trainer(run, "auto", /*overfit=*/true); }),
                  {"train.overfit_batch is true, was false"});
  expect_contains(error_of([&] { train(run, "never"); }), {"already holds a run", "--resume auto", "--train.out"});

  run.train.stop_after = 0, run.train.steps = 4, run.optimizer.lr = 1e-3, run.train.eval_tokens = 32;
  EXPECT_EQ(train(run), Outcome::kFinished) << "steps, rates and evaluation may change";
}

TEST_F(Training, ADryRunWritesNothing) {
  const RunConfig run = tiny_run("run");
  const std::string text = Trainer(run, {.dry_run = true, .out = null_}).dry_run();
  expect_contains(text, {"[optim.schedule]", "parameters", "tokens per step", "FLOPs per token", "GiB", "tokens/s"});
  EXPECT_FALSE(fs::exists(run.train.out));
}

TEST_F(Training, ADryRunCountsTheCopiesForSaving) {
  const auto gibibytes = [&](const RunConfig& run, const std::string& name) {
    const std::string text = Trainer(run, {.dry_run = true, .out = null_}).dry_run();
    const size_t at = text.find("\n" + name);
    return at == std::string::npos ? 0 : std::stod(text.substr(at + 39));
  };
  const char* const kCopies = "copies for saving beside training";
  RunConfig run = tiny_run("run");
  const double weights = gibibytes(run, "weights");
  EXPECT_GT(weights, 0);
  EXPECT_NEAR(gibibytes(run, kCopies) / weights, 3, 0.01) << "with two moments";
  run.train.ema_decay = 0.9;
  EXPECT_NEAR(gibibytes(run, kCopies) / weights, 4, 0.01);
  run.data.packing = "stateful";
  EXPECT_GT(gibibytes(run, kCopies) / weights, 4.01) << "and the state of the rows";
  EXPECT_GT(gibibytes(run, "peak memory from the first save on"), 0);
  run.train.async_save = false;
  EXPECT_EQ(gibibytes(run, kCopies), 0);
  EXPECT_EQ(gibibytes(run, "peak memory from the first save on"), 0);
}

}  // namespace
}  // namespace megalodon
