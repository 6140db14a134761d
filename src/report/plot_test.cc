#include "report/plot.h"

#include "base/testing.h"

namespace megalodon::report {
namespace {

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

TEST(Scale, IsLogarithmicOverLargeRatiosOfPositiveValues) {
  EXPECT_FALSE(Scale(1, 20).is_logarithmic());
  EXPECT_TRUE(Scale(1, 21).is_logarithmic());
  EXPECT_FALSE(Scale(0, 1000).is_logarithmic());
  EXPECT_FALSE(Scale(-1, 1000).is_logarithmic());
}

TEST(Scale, PlacesValues) {
  const Scale decades(10, 100'000);
  EXPECT_DOUBLE_EQ(decades.position(10), 0);
  EXPECT_DOUBLE_EQ(decades.position(100), 0.25);
  EXPECT_DOUBLE_EQ(decades.position(100'000), 1);
  const Scale linear(2, 6);
  EXPECT_DOUBLE_EQ(linear.position(4), 0.5);
  EXPECT_GT(linear.position(2), 0) << "a margin";
  EXPECT_LT(linear.position(6), 1);
  EXPECT_DOUBLE_EQ(Scale(3, 3).position(3), 0.5) << "of a single value";
}

TEST(Scale, TicksAreRoundAndFew) {
  EXPECT_EQ(Scale(0, 10).ticks(), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(Scale(3.1, 8.9).ticks(), (std::vector<double>{3, 4, 5, 6, 7, 8, 9}));
  EXPECT_EQ(Scale(4096, 409'600).ticks(), (std::vector<double>{5e3, 1e4, 2e4, 5e4, 1e5, 2e5}));
  EXPECT_EQ(Scale(1, 1e5).ticks(), (std::vector<double>{1, 10, 100, 1e3, 1e4, 1e5}));
  for (const double high : {1.07, 1.3, 2.0, 3.7, 9.9, 19.0, 21.0, 1e4, 1e13, 1e40})
    for (const double scale : {1e-6, 1.0, 3e9}) {
      const size_t ticks = Scale(scale, scale * high).ticks().size();
      EXPECT_GE(ticks, high > 1e30 ? 0U : 2U) << scale << " to " << scale * high;
      EXPECT_LE(ticks, high > 1e30 ? 20U : 8U) << scale << " to " << scale * high;
    }
}

TEST(Scale, LabelsAreShort) {
  EXPECT_EQ(tick_label(0), "0");
  EXPECT_EQ(tick_label(2.25), "2.25");
  EXPECT_EQ(tick_label(9000), "9000");
  EXPECT_EQ(tick_label(25'000), "25k");
  EXPECT_EQ(tick_label(1'500'000), "1.5M");
  EXPECT_EQ(tick_label(-2e9), "-2G");
}

TEST(Plot, DrawsEveryLineWithItsNameInsideTheFrame) {
  Plot plot = {
      "", "Loss <by> tokens", "tokens", "nats", {{"a&b", {{1, 9}, {10, 5}, {100, 3}}, true}, {"c", {{50, 4}}}}};
  const std::string svg = to_svg(plot);
  expect_contains(svg,
                  {"Loss &lt;by&gt; tokens", "tokens (logarithmic)", "\"line s1\"", ">a&amp;b</text>", ">c</text>"});
  EXPECT_EQ(count(svg, "<path"), 2U);
  EXPECT_EQ(count(svg, "<circle"), 3U);
  EXPECT_EQ(count(svg, "<svg") + count(svg, "</svg>"), 2U);
  // From the left end of the frame, at the top, to its right end.
  EXPECT_NE(svg.find("d=\"M56.0 "), std::string::npos) << svg;
  EXPECT_NE(svg.find("L604.0 "), std::string::npos) << svg;
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

TEST(Plot, PointsTooNearToBeSeenAreLeftOutButNotTheLast) {
  Plot plot = {"", "", "", "", {{"many", {}}}};
  for (int i = 0; i <= 100'000; ++i) plot.lines[0].curve.push_back({static_cast<double>(i), 1.0 + i % 7});
  const std::string svg = to_svg(plot);
  EXPECT_LT(svg.size(), 40'000U);
  EXPECT_GT(count(svg, "L"), 500U);
  plot.lines[0].curve.back().y = 7;  // the highest
  EXPECT_NE(to_svg(plot), svg);
}

TEST(Plot, AFileOfItsOwnHasItsStyle) {
  const Plot plot = {"", "t", "x", "y", {{"a", {{1, 9}, {2, 5}}}}};
  const std::string svg = to_svg_file(plot), element = to_svg(plot);
  expect_contains(svg, {"xmlns=", "<style>", ".s0 {", element.substr(element.find("<text"))});
}

TEST(Plot, WithoutPointsSaysSo) {
  expect_contains(to_svg({"", "t", "x", "y", {{"a", {}}}}), {"nothing was measured yet", "</svg>"});
}

}  // namespace
}  // namespace megalodon::report
