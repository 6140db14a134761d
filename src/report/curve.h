// What was measured along the way of something: points in order of x.
#pragma once

#include <optional>
#include <vector>

namespace megalodon::report {

struct Point {
  double x = 0, y = 0;
};

using Curve = std::vector<Point>;

/// On the straight line between the neighbours of x; nothing before the first point or behind the last one.
std::optional<double> value_at(const Curve& curve, double x);

/// Each point's y as a mean of about the last 20, in which later ones count more.
Curve smoothed(const Curve& curve);

}  // namespace megalodon::report
