#include "base/timing.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "base/process.h"

namespace megalodon {

Timing summarize(std::vector<double> seconds) {
  check(!seconds.empty(), "[timing] nothing was measured");
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(seconds.size() - 1);
    const auto below = static_cast<size_t>(place), above = std::min(below + 1, seconds.size() - 1);
    return std::lerp(seconds[below], seconds[above], place - static_cast<double>(below));
  };
  return {at(0.5), at(0.1), at(0.9), static_cast<int64_t>(seconds.size())};
}

Timing measure(const std::function<void()>& run, const Repetitions& repetitions) {
  for (int64_t i = 0; i < repetitions.warmups; ++i) run();
  std::vector<double> seconds;
  const Stopwatch total;
  while (static_cast<int64_t>(seconds.size()) < repetitions.fewest || total.seconds() < repetitions.seconds) {
    const Stopwatch watch;
    run();
    seconds.push_back(watch.seconds());
  }
  return summarize(std::move(seconds));
}

}  // namespace megalodon
