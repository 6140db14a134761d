#include "report/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "report/table.h"

namespace megalodon::report {
namespace {

constexpr double kLogarithmicFrom = 20;  // times the smallest value
constexpr size_t kMostTicks = 8;
constexpr int kColors = 8;

// Of the drawing, in pixels.
constexpr double kWidth = 620, kHeight = 380, kLeft = 56, kRight = 16, kTop = 34, kBottom = 46, kLegendRow = 18;
constexpr int kLegendColumns = 3;

std::string color_of(size_t line) {
  return fmt::format("s{}", line % kColors);
}

/// Where values are drawn.
class Frame {
 public:
  Frame(const Plot& plot, const Scale& x, const Scale& y)
      : x_(x), y_(y), top_(kTop + kLegendRow * std::ceil(static_cast<double>(plot.lines.size()) / kLegendColumns)) {}

  double top() const { return top_; }
  double bottom() const { return kHeight - kBottom; }
  double left() const { return kLeft; }
  double right() const { return kWidth - kRight; }
  double x(double value) const { return left() + x_.position(value) * (right() - left()); }
  double y(double value) const { return bottom() - y_.position(value) * (bottom() - top()); }

 private:
  Scale x_, y_;
  double top_;
};

std::string text_at(double x, double y, const char* anchor, std::string_view text, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\"{}>{}</text>\n", x, y, anchor, more,
                     escape_html(text));
}

std::string line_between(double x1, double y1, double x2, double y2, const std::string& style) {
  return fmt::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", style, x1, y1,
                     x2, y2);
}

std::string axes(const Plot& plot, const Scale& x, const Scale& y, const Frame& frame) {
  std::string svg;
  for (const double tick : x.ticks()) {
    svg += line_between(frame.x(tick), frame.top(), frame.x(tick), frame.bottom(), "grid");
    svg += text_at(frame.x(tick), frame.bottom() + 16, "middle", tick_label(tick));
  }
  for (const double tick : y.ticks()) {
    svg += line_between(frame.left(), frame.y(tick), frame.right(), frame.y(tick), "grid");
    svg += text_at(frame.left() - 6, frame.y(tick) + 4, "end", tick_label(tick));
  }
  const auto label = [](const std::string& text, const Scale& scale) {
    return scale.is_logarithmic() ? text + " (logarithmic)" : text;
  };
  svg += text_at((frame.left() + frame.right()) / 2, kHeight - 8, "middle", label(plot.x_label, x));
  const double middle = (frame.top() + frame.bottom()) / 2;
  return svg + text_at(14, middle, "middle", label(plot.y_label, y),
                       fmt::format(" transform=\"rotate(-90 14 {:.1f})\"", middle).c_str());
}

std::string legend(const Plot& plot) {
  constexpr double kColumn = (kWidth - kLeft - kRight) / kLegendColumns;
  std::string svg;
  for (size_t i = 0; i < plot.lines.size(); ++i) {
    const double x = kLeft + kColumn * static_cast<double>(i % kLegendColumns);
    const double y = kTop + kLegendRow * static_cast<double>(i / kLegendColumns);
    svg += line_between(x, y - 4, x + 20, y - 4, "line " + color_of(i));
    svg += text_at(x + 26, y, "start", plot.lines[i].name);
  }
  return svg;
}

/// A point less than half a pixel behind the last one shows nothing new, unless it is the end.
std::string path_of(const Curve& curve, const Frame& frame) {
  std::string path;
  double last = -HUGE_VAL;
  for (const Point& point : curve) {
    const double x = frame.x(point.x);
    if (x < last + 0.5 && &point != &curve.back()) continue;
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x, frame.y(point.y));
    last = x;
  }
  return path;
}

std::string drawn(const Line& line, const std::string& color, const Frame& frame) {
  std::string svg = fmt::format("<path class=\"line {}\" d=\"{}\"><title>{}</title></path>\n", color,
                                path_of(line.curve, frame), escape_html(line.name));
  if (!line.has_marks) return svg;
  for (const Point& point : line.curve)
    svg += fmt::format(
        "<circle class=\"mark {}\" cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\"><title>{}: {:.4f}</title></circle>\n", color,
        frame.x(point.x), frame.y(point.y), escape_html(line.name), point.y);
  return svg;
}

struct Range {
  double low = HUGE_VAL, high = -HUGE_VAL;
  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
};

std::string svg_element(const Plot& plot, const std::string& attributes, const std::string& head) {
  std::string svg = fmt::format("<svg {}viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}", attributes, kWidth,
                                kHeight, escape_html(plot.title), head);
  svg += text_at(kLeft, 14, "start", plot.title, " class=\"title\"");
  Range x, y;
  for (const Line& line : plot.lines)
    for (const Point& point : line.curve) x.add(point.x), y.add(point.y);
  if (x.low > x.high) return svg + text_at(kWidth / 2, kHeight / 2, "middle", "nothing was measured yet") + "</svg>\n";
  const Scale along(x.low, x.high), up(y.low, y.high);
  const Frame frame(plot, along, up);
  svg += axes(plot, along, up, frame) + legend(plot);
  for (size_t i = 0; i < plot.lines.size(); ++i) svg += drawn(plot.lines[i], color_of(i), frame);
  return svg + "</svg>\n";
}

}  // namespace

Scale::Scale(double low, double high)
    : low_(low), high_(high), is_logarithmic_(low > 0 && high > kLogarithmicFrom * low) {
  if (is_logarithmic_) return;
  const double margin = high > low ? 0.03 * (high - low) : std::max(std::abs(low), 1.0) / 2;
  low_ = low >= 0 ? std::max(0.0, low - margin) : low - margin;
  high_ = high + margin;
}

double Scale::position(double value) const {
  return is_logarithmic_ ? std::log(value / low_) / std::log(high_ / low_) : (value - low_) / (high_ - low_);
}

std::vector<double> Scale::ticks() const {
  return is_logarithmic_ ? logarithmic_ticks() : linear_ticks();
}

/// Multiples of 1, 2 or 5 times a power of ten.
std::vector<double> Scale::linear_ticks() const {
  double step = std::pow(10, std::floor(std::log10(high_ - low_)) - 1);
  for (const double factor : {2.0, 2.5, 2.0, 2.0, 2.5}) {  // 1, 2, 5, 10, 20, 50 times the first
    if (std::floor(high_ / step) - std::ceil(low_ / step) < kMostTicks) break;
    step *= factor;
  }
  std::vector<double> list;
  for (double i = std::ceil(low_ / step); i <= std::floor(high_ / step); ++i) list.push_back(i * step);
  return list;
}

/// 1, 2 and 5 times powers of ten, or powers alone where those are too many.
std::vector<double> Scale::logarithmic_ticks() const {
  for (const auto& factors : {std::vector<double>{1, 2, 5}, {1}}) {
    std::vector<double> list;
    for (double power = std::floor(std::log10(low_)); power <= std::log10(high_); ++power)
      for (const double factor : factors)
        if (const double tick = factor * std::pow(10, power); tick >= low_ && tick <= high_) list.push_back(tick);
    if (list.size() <= kMostTicks) return list;
  }
  // More than eight decades: every third.
  std::vector<double> list;
  for (double power = std::ceil(std::log10(low_)); power <= std::log10(high_); power += 3)
    list.push_back(std::pow(10, power));
  return list;
}

std::string tick_label(double value) {
  const double size = std::abs(value);
  if (size >= 1e9) return fmt::format("{:.4g}G", value / 1e9);
  if (size >= 1e6) return fmt::format("{:.4g}M", value / 1e6);
  if (size >= 1e4) return fmt::format("{:.4g}k", value / 1e3);
  return fmt::format("{:.4g}", value);
}

std::string to_svg(const Plot& plot) {
  return svg_element(plot, "", "");
}

std::string to_svg_file(const Plot& plot) {
  const std::string style = fmt::format(
      "<style>{}svg {{ width: {}px; height: {}px; color: #222; }}\n"
      "@media (prefers-color-scheme: dark) {{ svg {{ color: #ddd; }} }}\n</style>\n",
      kPlotStyle, kWidth, kHeight);
  return svg_element(plot, "xmlns=\"http://www.w3.org/2000/svg\" ", style);
}

// Eight colours that people who confuse red and green can tell apart too, lighter on dark pages.
const char* const kPlotStyle = R"(
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: currentColor; }
svg .title { font-size: 14px; font-weight: 600; }
svg .grid { stroke: currentColor; stroke-opacity: 0.15; }
svg .line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.s0 { --color: #0072b2; } .s1 { --color: #d55e00; } .s2 { --color: #009e73; } .s3 { --color: #aa4499; }
.s4 { --color: #b8860b; } .s5 { --color: #3399cc; } .s6 { --color: #882255; } .s7 { --color: #555555; }
svg .line { stroke: var(--color); }
svg .mark { fill: var(--color); }
@media (prefers-color-scheme: dark) {
.s0 { --color: #56b4e9; } .s1 { --color: #ff8c42; } .s2 { --color: #2ecc9a; } .s3 { --color: #dd88cc; }
.s4 { --color: #f0e442; } .s5 { --color: #9ad5f5; } .s6 { --color: #ee7799; } .s7 { --color: #bbbbbb; }
}
)";

}  // namespace megalodon::report
