// How unusual a number is among the last ones of its kind.
#pragma once

#include <cstdint>
#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <optional>

namespace megalodon {

/// The last `size` values. Computed afresh from them each time: sums that are carried along would drift, and would not
/// be the same after a resumption.
class Window {
 public:
  explicit Window(int64_t size) : size_(size) {}

  void push(double value);
  bool full() const { return static_cast<int64_t>(values_.size()) == size_; }
  double mean() const;
  /// Standard deviations between the newest value and the mean of all of them, itself included, so at most the root of
  /// size - 1; 0 where all are equal. None before the window is full.
  std::optional<double> z_score() const;

  nlohmann::ordered_json state() const;
  /// Values beyond the size are forgotten, the oldest first. Throws Error for anything that state() does not return.
  void load_state(const nlohmann::ordered_json& state);

 private:
  int64_t size_;
  std::deque<double> values_;
};

}  // namespace megalodon
