#include "train/schedule.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace megalodon {
namespace {

struct Point {
  int64_t step;
  double multiplier;
};

void expect_points(const ScheduleConfig& schedule, int64_t total, const std::vector<Point>& points) {
  for (const Point& point : points)
    EXPECT_NEAR(lr_multiplier(schedule, point.step, total), point.multiplier, 1e-12)
        << schedule.kind << " at step " << point.step << " of " << total;
}

// Tables of the published schedulers.
TEST(Schedule, LinearTable) {
  const ScheduleConfig schedule{.kind = "linear", .warmup = 10};
  expect_points(schedule, 100,
                {{0, 0.0001},
                 {1, 0.10009},
                 {9, 0.90001},
                 {10, 1.0},
                 {11, 0.989},
                 {55, 0.505},
                 {99, 0.021},
                 {100, 0.01},
                 {101, 0.01},
                 {150, 0.01}});
}

TEST(Schedule, CosineTable) {
  const ScheduleConfig schedule{.kind = "cosine", .warmup = 10};
  expect_points(schedule, 100,
                {{0, 0.0001},
                 {8, 0.80002},
                 {10, 1.0},
                 {11, 0.9996984593744525},
                 {32, 0.8610732011676323},
                 {55, 0.505},
                 {88, 0.05279499846691252},
                 {100, 0.01},
                 {150, 0.01}});
}

TEST(Schedule, TwoHalfPeriodsRiseAgainAndThenFallToTheEnd) {
  const ScheduleConfig schedule{
      .kind = "cosine", .warmup = 5, .init_ratio = 0.01, .end_ratio = 0.1, .cycles = 2, .decay_fraction = 0.2};
  expect_points(schedule, 60,
                {{0, 0.01},
                 {4, 0.802},
                 {5, 1.0},
                 {15, 0.736936755850849},
                 {32, 0.10073390323323897},
                 {59, 0.9970667809068475},
                 {60, 1.0},
                 {61, 0.1}});
}

TEST(Schedule, ConstantNeverFalls) {
  const ScheduleConfig schedule{.kind = "constant", .warmup = 8, .init_ratio = 0.001};
  expect_points(schedule, 50, {{0, 0.001}, {4, 0.5005}, {8, 1.0}, {49, 1.0}, {100, 1.0}});
}

TEST(Schedule, WarmupStableDecay) {
  const ScheduleConfig schedule{.kind = "wsd", .warmup = 10, .end_ratio = 0.1};
  expect_points(schedule, 100, {{5, 0.50005}, {10, 1.0}, {80, 1.0}, {90, 0.55}, {100, 0.1}, {101, 0.1}});
}

TEST(Schedule, WsdDecayNeverReachesIntoTheWarmup) {
  const ScheduleConfig schedule{.kind = "wsd", .warmup = 60, .end_ratio = 0.0, .decay_fraction = 1.0};
  expect_points(schedule, 100, {{60, 1.0}, {80, 0.5}, {100, 0.0}});
}

TEST(Schedule, WarmupLongerThanTheRun) {
  const ScheduleConfig schedule{.kind = "cosine", .warmup = 10};
  expect_points(schedule, 4, {{0, 0.0001}, {3, 0.30007}});
  expect_points(schedule, 10, {{10, 0.01}, {11, 0.01}});
  EXPECT_EQ(
      schedule_warning(schedule, 4),
      "warning: optim.schedule.warmup = 10 steps do not end within the run's 4: the rate rises to 0.3 of its peak");
  EXPECT_NE(schedule_warning(schedule, 10), "");
  EXPECT_EQ(schedule_warning(schedule, 11), "");
}

TEST(Schedule, ValidateNamesTheField) {
  const auto message = [](const ScheduleConfig& schedule) -> std::string {
    try {
      schedule.validate();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({}), "");
  EXPECT_NE(message({.kind = "cosin"}).find("optim.schedule.kind"), std::string::npos);
  EXPECT_NE(message({.warmup = -1}).find("optim.schedule.warmup"), std::string::npos);
  EXPECT_NE(message({.init_ratio = 2}).find("optim.schedule.init_ratio"), std::string::npos);
  EXPECT_NE(message({.end_ratio = -0.5}).find("optim.schedule.end_ratio"), std::string::npos);
  EXPECT_NE(message({.cycles = 0}).find("optim.schedule.cycles"), std::string::npos);
  EXPECT_NE(message({.decay_fraction = 1.5}).find("optim.schedule.decay_fraction"), std::string::npos);
}

}  // namespace
}  // namespace megalodon
