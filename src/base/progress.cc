#include "base/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

namespace megalodon {
namespace {

constexpr double kRedrawSeconds = 0.25;
constexpr double kPlainSeconds = 10;
constexpr int64_t kBarWidth = 20;

size_t terminal_width(std::FILE* out) {
  winsize size{};
  return ioctl(fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

double fraction(int64_t done, int64_t total) {
  return total > 0 ? std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0) : 0;
}

}  // namespace

std::string format_duration(double seconds) {
  if (!(seconds >= 0) || seconds > 1e9) return "?";
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60)
                   : fmt::format("{}:{:02}", minutes, whole % 60);
}

std::string format_count(double number) {
  if (std::abs(number) < 99999.5) return fmt::format("{:.0f}", number);
  const char* suffix = "";
  for (const char* next : {"k", "M", "G", "T"}) {
    if (std::abs(number) < 999.5) break;
    number /= 1000;
    suffix = next;
  }
  return fmt::format("{:.3g}{}", number, suffix);
}

Progress::Progress(std::string label, std::string unit, std::FILE* out, Plain plain)
    : label_(std::move(label)), unit_(std::move(unit)), out_(out), interactive_(isatty(fileno(out)) != 0) {
  interval_ = interactive_ ? kRedrawSeconds : plain == Plain::kNowAndThen ? kPlainSeconds : -1;
}

std::string Progress::line() const {
  const double elapsed = since_start_.seconds();
  const double rate = elapsed > 0 ? static_cast<double>(done_ - first_) / elapsed : 0;
  const double part = fraction(done_, total_);
  const auto filled = static_cast<size_t>(part * kBarWidth);
  std::string text = fmt::format("{} {}/{} [{:<{}}] {:3.0f}%", label_, format_count(static_cast<double>(done_)),
                                 format_count(static_cast<double>(total_)), std::string(filled, '#'), kBarWidth,
                                 std::floor(part * 100));
  text += detail_.empty() ? fmt::format("  {} {}/s", format_count(rate), unit_) : fmt::format("  {}", detail_);
  if (done_ < total_) {
    text += fmt::format("  ETA {}", rate > 0 ? format_duration(static_cast<double>(total_ - done_) / rate) : "?");
  } else {
    text += fmt::format("  {}", format_duration(elapsed));
  }
  return text;
}

void Progress::redraw() {
  last_ = line();
  since_line_.restart();
  if (interactive_) {
    // One column is left free: a line as wide as the terminal would wrap, and \r return to its second half.
    fmt::print(out_, "\r{}\033[K", last_.substr(0, terminal_width(out_) - 1));
  } else {
    fmt::print(out_, "{}\n", last_);
  }
  std::fflush(out_);
  drawn_ = true;
}

void Progress::update(int64_t done, int64_t total, std::string_view detail) {
  if (!started_) {
    started_ = true;
    first_ = done;
    since_start_.restart();
    since_line_.restart();
  }
  done_ = done, total_ = total;
  detail_ = detail;
  if (interval_ >= 0 && (since_line_.seconds() >= interval_ || (interactive_ && !drawn_))) redraw();
}

void Progress::print(std::string_view text) {
  if (interactive_ && drawn_) fmt::print(out_, "\r\033[K");
  fmt::print(out_, "{}\n", text);
  if (interactive_ && drawn_) fmt::print(out_, "{}", last_.substr(0, terminal_width(out_) - 1));
  std::fflush(out_);
}

void Progress::finish() {
  if (interactive_ && drawn_) {
    redraw();  // the state that the last redrawing may have missed
    fmt::print(out_, "\n");
    std::fflush(out_);
  }
  drawn_ = false;
  started_ = false;
}

}  // namespace megalodon
