// Progress of long work: on a terminal one line, redrawn about four times a second; elsewhere (a pipe, a log file) a
// plain line now and then, so that logs stay readable.
#pragma once

#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

#include "base/process.h"

namespace megalodon {

class Progress {
 public:
  /// What a stream that is no terminal gets from update(): nothing, or a line every ten seconds.
  enum class Plain { kNothing, kNowAndThen };

  explicit Progress(std::string label, std::string unit, std::FILE* out = stderr, Plain plain = Plain::kNowAndThen);
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  bool interactive() const { return interactive_; }
  /// Cheap: may be called after every item. `detail` replaces the rate in the line.
  void update(int64_t done, int64_t total, std::string_view detail = {});
  /// A lasting line (or several), above the one that is redrawn.
  void print(std::string_view text);
  /// Leaves the last state on a line of its own.
  void finish();

 private:
  std::string line() const;
  void redraw();

  std::string label_, unit_, detail_, last_;
  std::FILE* out_;
  bool interactive_;
  double interval_;  // seconds between lines; below 0: no lines
  bool started_ = false, drawn_ = false;
  int64_t first_ = 0, done_ = 0, total_ = 0;
  Stopwatch since_start_, since_line_;
};

/// 75 -> "1:15", 3700 -> "1:01:40"
std::string format_duration(double seconds);

/// 12345 -> "12345", 1234567 -> "1.23M"
std::string format_count(double number);

}  // namespace megalodon
