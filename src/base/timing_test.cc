#include "base/timing.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace megalodon {
namespace {

TEST(Timing, PercentilesAreInterpolated) {
  const Timing one = summarize({3});
  EXPECT_EQ(one.median, 3);
  EXPECT_EQ(one.p10, 3);
  const Timing many = summarize({11, 1, 3, 5, 7, 9, 2, 4, 6, 8, 10});
  EXPECT_EQ(many.median, 6);
  EXPECT_DOUBLE_EQ(many.p10, 2);
  EXPECT_DOUBLE_EQ(many.p90, 10);
  EXPECT_EQ(many.repetitions, 11);
  EXPECT_EQ(summarize({1, 2}).median, 1.5);
  EXPECT_THROW(summarize({}), Error);
}

TEST(Timing, CallsAsOftenAsItSays) {
  int calls = 0;
  const Timing timing = measure([&] { ++calls; }, {.warmups = 3, .fewest = 4, .seconds = 0});
  EXPECT_EQ(calls, 7);
  EXPECT_EQ(timing.repetitions, 4);
  EXPECT_GE(timing.median, 0);
}

}  // namespace
}  // namespace megalodon
