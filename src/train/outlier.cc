#include "train/outlier.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"

namespace megalodon {

void Window::push(double value) {
  values_.push_back(value);
  while (static_cast<int64_t>(values_.size()) > size_) values_.pop_front();
}

double Window::mean() const {
  return std::accumulate(values_.begin(), values_.end(), 0.0) / static_cast<double>(values_.size());
}

std::optional<double> Window::z_score() const {
  if (size_ == 0 || !full()) return {};
  const double center = mean();
  double squares = 0;
  for (const double value : values_) squares += (value - center) * (value - center);
  if (squares == 0) return 0.0;
  return (values_.back() - center) / std::sqrt(squares / static_cast<double>(values_.size()));
}

nlohmann::ordered_json Window::state() const {
  return values_;
}

void Window::load_state(const nlohmann::ordered_json& state) {
  check(state.is_array(), "[trainer.json] expected a list of numbers, got {}", state.dump());
  values_.clear();
  for (const auto& value : state) {
    check(value.is_number(), "[trainer.json] expected a list of numbers, got {} in it", value.dump());
    push(value.get<double>());
  }
}

}  // namespace megalodon
