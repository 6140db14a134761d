// Lines in a coordinate system, as an SVG element that is part of an HTML page, or as an SVG image.
#pragma once

#include <string>
#include <vector>

#include "report/curve.h"

namespace megalodon::report {

struct Line {
  std::string name;
  Curve curve;
  bool has_marks = false;  // a dot at every point
};

struct Plot {
  std::string name;  // of files
  std::string title, x_label, y_label;
  std::vector<Line> lines;
};

/// One direction of a coordinate system. Logarithmic where all values are positive and the largest is more than 20
/// times the smallest.
class Scale {
 public:
  /// Of values from `low` to `high`, of which it may show a little more.
  Scale(double low, double high);

  bool is_logarithmic() const { return is_logarithmic_; }
  /// 0 at the low end, 1 at the high one.
  double position(double value) const;
  /// Round numbers to write beside it, at most eight.
  std::vector<double> ticks() const;

 private:
  std::vector<double> linear_ticks() const;
  std::vector<double> logarithmic_ticks() const;

  double low_, high_;
  bool is_logarithmic_;
};

/// 1500000 -> "1.5M"
std::string tick_label(double value);

/// With a legend. A line's colour is its place in the list: class "s0" and so on, for kPlotStyle.
std::string to_svg(const Plot& plot);
/// The same as a file that needs no other.
std::string to_svg_file(const Plot& plot);

/// The rules of a style sheet that plots need, for light and dark pages.
extern const char* const kPlotStyle;

}  // namespace megalodon::report
