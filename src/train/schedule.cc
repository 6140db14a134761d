#include "train/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace megalodon {
namespace {

constexpr std::array<const char*, 4> kKinds = {"cosine", "linear", "constant", "wsd"};

void check_ratio(const char* name, double value) {
  if (!(value >= 0 && value <= 1))
    fail_usage("[optim.schedule.{}] expected a fraction of the peak rate in [0, 1], got {}", name, value);
}

}  // namespace

void ScheduleConfig::visit(config::Visitor& v) {
  v.field("kind", kind, "shape after the warm-up: cosine, linear, constant, or wsd (constant, then a linear decay)");
  v.field("warmup", warmup, "steps over which the rate rises linearly to its peak");
  v.field("warmup_power", warmup_power, "exponent of the rise: 1 is a straight line");
  v.field("init_ratio", init_ratio, "rate of the first step, as a fraction of the peak");
  v.field("end_ratio", end_ratio, "rate at the end, as a fraction of the peak (not for constant)");
  v.field("cycles", cycles, "half periods of the cosine");
  v.field("decay_fraction", decay_fraction, "wsd: the part of all steps, at the end, over which the rate decays");
}

void ScheduleConfig::validate() const {
  if (std::find(kKinds.begin(), kKinds.end(), kind) == kKinds.end())
    fail_usage("[optim.schedule.kind] expected cosine, linear, constant or wsd, got \"{}\"", kind);
  if (warmup < 0) fail_usage("[optim.schedule.warmup] expected 0 or more steps, got {}", warmup);
  check_ratio("init_ratio", init_ratio);
  check_ratio("end_ratio", end_ratio);
  check_ratio("decay_fraction", decay_fraction);
  if (!(warmup_power > 0)) fail_usage("[optim.schedule.warmup_power] expected a number above 0, got {}", warmup_power);
  if (!(cycles > 0)) fail_usage("[optim.schedule.cycles] expected a number above 0, got {}", cycles);
}

double lr_multiplier(const ScheduleConfig& schedule, int64_t step, int64_t total) {
  const auto at = static_cast<double>(step), end_step = static_cast<double>(total);
  const auto warmup = static_cast<double>(schedule.warmup);
  const double end = schedule.end_ratio;
  if (step < schedule.warmup)
    return schedule.init_ratio + (1 - schedule.init_ratio) * std::pow(at / warmup, schedule.warmup_power);
  if (schedule.kind == "constant") return 1;
  // The second condition only matters where the warm-up takes the whole run and s would be 0 / 0.
  if (step > total || total <= schedule.warmup) return end;
  if (schedule.kind == "wsd") {
    const double decay_steps = std::min(schedule.decay_fraction * end_step, end_step - warmup);
    const double left = end_step - at;
    return left >= decay_steps ? 1 : end + (1 - end) * left / decay_steps;
  }
  const double s = (at - warmup) / (end_step - warmup);
  if (schedule.kind == "linear") return s * end + (1 - s);
  return end + 0.5 * (1 - end) * (std::cos(std::numbers::pi * s * schedule.cycles) + 1);
}

std::string schedule_warning(const ScheduleConfig& schedule, int64_t total) {
  if (schedule.warmup < total) return "";
  return fmt::format(
      "warning: optim.schedule.warmup = {} steps do not end within the run's {}: the rate rises to {:.2g} of its peak",
      schedule.warmup, total, lr_multiplier(schedule, total - 1, total));
}

}  // namespace megalodon
