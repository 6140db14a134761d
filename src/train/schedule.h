// Learning-rate schedules as multipliers of the peak rate.
//
//   warmup (step < warmup)   init + (1 − init) (step / warmup)^power
//   linear                   s · end + (1 − s)                            s = (step − warmup) / (total − warmup)
//   cosine                   end + (1 − end) (cos(π s cycles) + 1) / 2
//   constant                 1
//   wsd                      1 until the last `decay` fraction of all steps, then linear to `end`
//   after `total`            end (constant: 1)
#pragma once

#include "base/config.h"

namespace megalodon {

struct ScheduleConfig {
  std::string kind = "cosine";
  int64_t warmup = 100;
  double init_ratio = 1e-4, end_ratio = 0.01, cycles = 1.0, decay_fraction = 0.2, warmup_power = 1;
  void visit(config::Visitor& visitor);
  void validate() const;
};

/// Multiplier at optimizer step `step`, 0 for the first update, of `total` steps.
double lr_multiplier(const ScheduleConfig& schedule, int64_t step, int64_t total);

/// Where a run of so many steps ends before the rate has reached its peak: a line that says so. "" elsewhere.
std::string schedule_warning(const ScheduleConfig& schedule, int64_t total);

}  // namespace megalodon
