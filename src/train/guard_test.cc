#include "train/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/testing.h"

namespace megalodon {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

GuardConfig small_windows() {
  GuardConfig config;
  config.z_window = 8, config.spike_window = 4, config.max_skips = 2;
  return config;
}

/// Steps with ordinary losses; step s uses the sequences [10 s, 10 s + 10).
void feed(UpdateGuard& guard, int64_t from, int64_t to) {
  for (int64_t step = from; step <= to; ++step)
    EXPECT_EQ(guard.judge(step, 2 + 0.1 * (step % 2), 1, 10 * step, 10 * step + 10).verdict, Verdict::kApply);
}

TEST(UpdateGuard, RaisesForWhatIsNoNumber) {
  UpdateGuard guard(small_windows());
  expect_contains(error_of([&] { guard.judge(7, kNan, 1, 0, 1); }), {"step 7", "loss is nan", "not applied"});
  expect_contains(error_of([&] { guard.judge(7, 1, kInf, 0, 1); }), {"step 7", "gradient's norm is inf"});
}

TEST(UpdateGuard, SkipsUpToALimit) {
  GuardConfig config = small_windows();
  config.nonfinite = "skip";
  UpdateGuard guard(config);
  EXPECT_EQ(guard.judge(1, kNan, kNan, 0, 1).verdict, Verdict::kSkip);
  EXPECT_EQ(guard.judge(2, 1, kInf, 0, 1).verdict, Verdict::kSkip);
  feed(guard, 3, 3);  // in between, the count of skips in succession begins anew
  EXPECT_EQ(guard.judge(4, kNan, kNan, 0, 1).verdict, Verdict::kSkip);
  EXPECT_EQ(guard.judge(5, kNan, kNan, 0, 1).verdict, Verdict::kSkip);
  EXPECT_EQ(guard.skips(), 4);
  expect_contains(error_of([&] { guard.judge(6, kNan, kNan, 0, 1); }), {"step 6", "train.max_skips"});
}

TEST(UpdateGuard, SkipsOutliers) {
  GuardConfig config = small_windows();
  config.skip_loss_z = 2.5;
  UpdateGuard losses(config);
  feed(losses, 1, 7);
  const Judgement loss = losses.judge(8, 9, 1, 0, 1);
  EXPECT_EQ(loss.verdict, Verdict::kSkip);
  EXPECT_GT(*loss.loss_z, 2.5);
  EXPECT_EQ(*loss.norm_z, 0);
  expect_contains(loss.reason, {"loss", "9.0", "z-score"});

  config.skip_loss_z = 0, config.skip_grad_z = 2.5;
  UpdateGuard norms(config);
  feed(norms, 1, 7);
  EXPECT_EQ(norms.judge(8, 2, 50, 0, 1).verdict, Verdict::kSkip);
  EXPECT_EQ(norms.judge(9, 2, 1, 0, 1).verdict, Verdict::kApply) << "only unusually large norms are left out";
}

TEST(UpdateGuard, ReturnsToOneCheckpointUpToALimit) {
  GuardConfig config = small_windows();
  config.nonfinite = "rollback";
  UpdateGuard guard(config);
  feed(guard, 1, 3);
  const auto go_back = [&](const auto& checkpoint, int64_t step) {
    const UpdateGuard before = guard;
    EXPECT_EQ(guard.judge(5, kNan, kNan, 0, 1).verdict, Verdict::kRollback);
    guard.load_state(checkpoint);
    guard.returned(before, step, 5, "the loss is nan");
    feed(guard, 4, 4);
  };
  const auto first = guard.state();
  for (int64_t i = 1; i <= 2; ++i) go_back(first, 3);
  EXPECT_EQ(guard.rollbacks(), 2);
  const auto again = guard.state();  // saving there anew does not make it another checkpoint, nor does a resumption
  UpdateGuard resumed(config);
  resumed.load_state(again);
  std::swap(guard, resumed);
  expect_contains(error_of([&] { go_back(again, 3); }),
                  {"step 5: the loss is nan", "2 returns to the same checkpoint"});
  std::swap(guard, resumed);
  for (int64_t i = 3; i <= 4; ++i) go_back(guard.state(), 4);
  EXPECT_EQ(guard.rollbacks(), 4);
  expect_contains(error_of([&] { go_back(first, 4); }), {"2 returns to the same checkpoint"});
}

TEST(UpdateGuard, WarnsOnceOfARisingLoss) {
  UpdateGuard guard(small_windows());
  feed(guard, 1, 10);
  std::string warnings;
  for (int64_t step = 11; step <= 16; ++step)
    warnings += guard.judge(step, 40.0 * std::pow(3, step - 11), 1, 10 * step, 10 * step + 10).warning;
  expect_contains(warnings, {"since step 11", "at step 14", "sequences 110 to 149"});
  EXPECT_EQ(warnings.find("warning"), warnings.rfind("warning")) << warnings;
  // One high loss is no rise.
  feed(guard, 17, 24);
  EXPECT_EQ(guard.judge(25, 40, 1, 0, 1).warning, "");
  feed(guard, 26, 30);
}

TEST(UpdateGuard, ContinuesFromItsStateBitForBit) {
  GuardConfig config = small_windows();
  config.nonfinite = "skip", config.skip_loss_z = 2.0;
  const auto loss = [](int64_t step) { return step % 9 == 0 ? kNan : 2 + std::sin(step) + (step % 13 == 0 ? 8 : 0); };
  for (int64_t cut = 1; cut < 40; cut += 3) {
    UpdateGuard whole(config), resumed(config);
    for (int64_t step = 1; step <= 40; ++step) {
      const Judgement expected = whole.judge(step, loss(step), 1.0 / step, step, step + 1);
      if (step > cut) {
        const Judgement got = resumed.judge(step, loss(step), 1.0 / step, step, step + 1);
        EXPECT_EQ(got.verdict, expected.verdict) << step;
        EXPECT_EQ(got.loss_z, expected.loss_z);
        EXPECT_EQ(got.norm_z, expected.norm_z);
        EXPECT_EQ(got.warning, expected.warning);
      }
      if (step == cut) resumed.load_state(nlohmann::ordered_json::parse(whole.state().dump()));
    }
    EXPECT_EQ(whole.state(), resumed.state());
    EXPECT_GT(whole.skips(), 4);
  }
}

TEST(UpdateGuard, RefusesWhatCannotWork) {
  const auto refused = [](const auto& change) {
    GuardConfig config;
    change(config);
    return error_of([&] { config.validate(); });
  };
  expect_contains(refused([](GuardConfig& c) { c.nonfinite = "ignore"; }), {"train.nonfinite", "rollback", "ignore"});
  expect_contains(refused([](GuardConfig& c) { c.skip_grad_z = 12; }), {"train.skip_grad_z", "11.27"});
  expect_contains(refused([](GuardConfig& c) { c.max_skips = 0; }), {"train.max_skips"});
  expect_contains(refused([](GuardConfig& c) { c.z_window = 1; }), {"train.z_window"});
  expect_contains(refused([](GuardConfig& c) { c.spike_factor = 1; }), {"train.spike_factor"});
  UpdateGuard guard(GuardConfig{});
  expect_contains(error_of([&] { guard.load_state({{"losses", 1}}); }), {"trainer.json", "guard"});
  auto state = guard.state();
  guard.load_state(state);
  state["rollbacks"] = -1;
  expect_contains(error_of([&] { guard.load_state(state); }), {"trainer.json", "guard", "rollbacks", "-1"});
}

}  // namespace
}  // namespace megalodon
