#include "report/curve.h"

#include <algorithm>

namespace megalodon::report {

std::optional<double> value_at(const Curve& curve, double x) {
  const auto is_before = [](const Point& point, double value) { return point.x < value; };
  const auto right = std::lower_bound(curve.begin(), curve.end(), x, is_before);
  if (right == curve.end()) return {};
  if (right->x == x) return right->y;
  if (right == curve.begin()) return {};
  const Point& left = *(right - 1);
  return left.y + (right->y - left.y) * (x - left.x) / (right->x - left.x);
}

Curve smoothed(const Curve& curve) {
  constexpr double kKept = 0.95;
  Curve result;
  double sum = 0, weight = 0;  // so that the first points are means of what there is
  for (const Point& point : curve) {
    sum = kKept * sum + point.y;
    weight = kKept * weight + 1;
    result.push_back({point.x, sum / weight});
  }
  return result;
}

}  // namespace megalodon::report
