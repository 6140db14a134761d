// Ends a run whose held-out loss no longer falls.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>

namespace megalodon {

class EarlyStop {
 public:
  /// Stops after `patience` evaluations in succession none of which is better than the best one before by `min_delta`
  /// or more. Patience 0: never.
  EarlyStop(int64_t patience, double min_delta) : patience_(patience), min_delta_(min_delta) {}

  void add(int64_t step, double loss);
  /// Losses are of another text from here on.
  void reset() { best_.reset(), best_step_ = without_ = 0; }
  bool reached() const { return patience_ > 0 && without_ >= patience_; }
  double best() const { return best_.value_or(0); }
  int64_t best_step() const { return best_step_; }

  nlohmann::ordered_json state() const;
  void load_state(const nlohmann::ordered_json& state);

 private:
  int64_t patience_;
  double min_delta_;
  std::optional<double> best_;
  int64_t best_step_ = 0, without_ = 0;  // evaluations since the best one
};

}  // namespace megalodon
