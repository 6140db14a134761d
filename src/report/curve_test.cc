#include "report/curve.h"

#include <gtest/gtest.h>

namespace megalodon::report {
namespace {

TEST(Curve, BetweenTwoPointsItIsStraightAndOutsideNothing) {
  const Curve curve = {{10, 5}, {20, 3}, {40, 2}};
  EXPECT_EQ(value_at(curve, 10), 5);
  EXPECT_EQ(value_at(curve, 15), 4);
  EXPECT_EQ(value_at(curve, 20), 3);
  EXPECT_EQ(value_at(curve, 25), 2.75);
  EXPECT_EQ(value_at(curve, 40), 2);
  EXPECT_FALSE(value_at(curve, 9.99));
  EXPECT_FALSE(value_at(curve, 40.01));
  EXPECT_FALSE(value_at({}, 1));
}

TEST(Curve, SmoothingBeginsWithTheMeanOfWhatThereIs) {
  const Curve smooth = smoothed({{1, 4}, {2, 4}, {3, 4}});
  ASSERT_EQ(smooth.size(), 3U);
  for (const Point& point : smooth) EXPECT_DOUBLE_EQ(point.y, 4);
  const Curve step = smoothed({{1, 8}, {2, 4}});
  EXPECT_DOUBLE_EQ(step[1].y, (0.95 * 8 + 4) / 1.95);
  EXPECT_EQ(step[1].x, 2);

  Curve noisy;
  for (int i = 0; i < 1000; ++i) noisy.push_back({static_cast<double>(i), i % 2 == 0 ? 1.0 : 3.0});
  EXPECT_NEAR(smoothed(noisy).back().y, 2, 0.06);
}

}  // namespace
}  // namespace megalodon::report
