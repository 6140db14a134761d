#include "train/outlier.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "data/testing.h"

namespace megalodon {
namespace {

TEST(Window, HasNoScoreBeforeItIsFull) {
  Window window(4);
  for (const double value : {1.0, 2.0, 3.0}) {
    window.push(value);
    EXPECT_FALSE(window.z_score());
  }
  window.push(6);
  // Mean 3, squared deviations 4 + 1 + 0 + 9.
  ASSERT_TRUE(window.z_score());
  EXPECT_DOUBLE_EQ(*window.z_score(), 3 / std::sqrt(14.0 / 4));
  EXPECT_DOUBLE_EQ(window.mean(), 3);
}

TEST(Window, ForgetsTheOldest) {
  Window window(3);
  for (const double value : {1e9, 1.0, 2.0, 3.0}) window.push(value);
  EXPECT_DOUBLE_EQ(window.mean(), 2);
  EXPECT_DOUBLE_EQ(*window.z_score(), 1 / std::sqrt(2.0 / 3));
}

TEST(Window, EqualValuesAreNoOutliers) {
  Window window(5);
  for (int i = 0; i < 9; ++i) window.push(0.1);
  EXPECT_NEAR(*window.z_score(), 0, 1e-6);
}

TEST(Window, ContinuesFromItsStateBitForBit) {
  Window whole(7), first(7), second(7);
  for (int i = 0; i < 20; ++i) {
    const double value = std::sin(i) / 3;
    whole.push(value);
    if (i < 11) first.push(value);
    if (i == 11) second.load_state(nlohmann::ordered_json::parse(first.state().dump()));
    if (i >= 11) second.push(value);
  }
  EXPECT_EQ(whole.z_score(), second.z_score());
  Window smaller(3);
  smaller.load_state(whole.state());
  EXPECT_TRUE(smaller.full());
  expect_contains(error_of([&] { smaller.load_state({{"a", 1}}); }), {"trainer.json", "list"});
  expect_contains(error_of([&] { smaller.load_state({1.0, "x"}); }), {"trainer.json", "x"});
}

}  // namespace
}  // namespace megalodon
