#include "train/early_stop.h"

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon {

void EarlyStop::add(int64_t step, double loss) {
  const bool better = best_ ? loss < *best_ && *best_ - loss >= min_delta_ : std::isfinite(loss);
  if (better) {
    best_ = loss;
    best_step_ = step;
    without_ = 0;
  } else {
    ++without_;
  }
}

nlohmann::ordered_json EarlyStop::state() const {
  nlohmann::ordered_json state = {{"best_step", best_step_}, {"without", without_}};
  if (best_) state["best"] = *best_;
  return state;
}

void EarlyStop::load_state(const nlohmann::ordered_json& state) {
  const auto step = state.find("best_step"), without = state.find("without"), best = state.find("best");
  check(step != state.end() && step->is_number_integer() && without != state.end() && without->is_number_integer() &&
            (best == state.end() || best->is_number()),
        "[trainer.json] expected the state of early stopping, got {}", state.dump());
  best_step_ = step->get<int64_t>();
  without_ = without->get<int64_t>();
  best_.reset();
  if (best != state.end()) best_ = best->get<double>();
}

}  // namespace megalodon
