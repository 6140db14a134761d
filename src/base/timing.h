// Repeated measurements of a time, and what to say about them.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

namespace megalodon {

/// Seconds. Machines are noisy: what is compared is the median, the percentiles tell how far to trust it.
struct Timing {
  double median = 0, p10 = 0, p90 = 0;
  int64_t repetitions = 0;
};

/// Of at least one measurement; between two of them percentiles are interpolated.
Timing summarize(std::vector<double> seconds);

struct Repetitions {
  int64_t warmups = 2, fewest = 5;
  double seconds = 0.5;  // and as many more as fit into this time
};

Timing measure(const std::function<void()>& run, const Repetitions& repetitions = {});

}  // namespace megalodon
