#include "train/early_stop.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/testing.h"

namespace megalodon {
namespace {

TEST(EarlyStop, AfterPatienceEvaluationsWithoutImprovement) {
  EarlyStop stop(2, 0.1);
  int64_t step = 0;
  for (const double loss : {3.0, 2.0, 1.95, 1.8, 1.75}) {  // 1.95 is no improvement, 1.8 is one over 2.0
    stop.add(++step, loss);
    EXPECT_FALSE(stop.reached()) << loss;
  }
  stop.add(6, 1.71);
  EXPECT_TRUE(stop.reached()) << "1.75 and 1.71 are less than 0.1 below 1.8";
  EXPECT_EQ(stop.best(), 1.8);
  EXPECT_EQ(stop.best_step(), 4);
}

TEST(EarlyStop, EqualIsNotBetter) {
  EarlyStop stop(1, 0);
  stop.add(1, 2.0);
  EXPECT_FALSE(stop.reached());
  stop.add(2, 2.0);
  EXPECT_TRUE(stop.reached());
}

TEST(EarlyStop, NeverWithoutPatienceAndNeverForANan) {
  EarlyStop never(0, 0), one(2, 0);
  for (int i = 0; i < 50; ++i) never.add(i, 1.0);
  EXPECT_FALSE(never.reached());
  one.add(1, NAN);
  one.add(2, NAN);
  EXPECT_TRUE(one.reached());
  one.add(3, 5.0);
  EXPECT_FALSE(one.reached()) << "the first number is the best so far";
}

TEST(EarlyStop, ContinuesFromItsState) {
  EarlyStop whole(3, 0.01), resumed(3, 0.01);
  for (int i = 1; i <= 3; ++i) whole.add(i, 1.0 / 3);
  resumed.load_state(nlohmann::ordered_json::parse(whole.state().dump()));
  EXPECT_EQ(resumed.best(), 1.0 / 3);
  EXPECT_FALSE(resumed.reached());
  resumed.add(4, 0.33);
  EXPECT_TRUE(resumed.reached());
  expect_contains(error_of([&] { resumed.load_state({{"best_step", "x"}}); }), {"trainer.json"});
}

}  // namespace
}  // namespace megalodon
