#include "train/guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kSource = "trainer.json, guard";
constexpr const char* kHint = "a lower optim.lr, a longer warm-up or a smaller optim.clip may help";

bool exceeds(const std::optional<double>& z, double threshold) {
  return threshold > 0 && z && *z > threshold;
}

}  // namespace

void GuardConfig::visit(config::Visitor& v) {
  v.field("nonfinite", nonfinite, "what a loss or gradient that is no finite number leads to: raise, skip or rollback");
  v.field("skip_loss_z", skip_loss_z, "leave out updates whose loss has a higher z-score; 0: none");
  v.field("skip_grad_z", skip_grad_z, "leave out updates whose gradient norm has a higher z-score; 0: none");
  v.field("max_skips", max_skips, "updates left out in succession, or returns to one checkpoint, before the run ends");
  v.field("z_window", z_window, "steps that z-scores are computed over");
  v.field("spike_window", spike_window, "steps of the mean loss that spikes are measured by; 0: no watch");
  v.field("spike_factor", spike_factor, "a loss above this multiple of the mean is suspicious");
  v.field("spike_patience", spike_patience, "suspicious losses in succession before a warning");
}

void GuardConfig::validate() const {
  if (nonfinite != "raise" && nonfinite != "skip" && nonfinite != "rollback")
    fail_usage("[train.nonfinite] expected raise, skip or rollback, got \"{}\"", nonfinite);
  if (!(skip_loss_z >= 0)) fail_usage("[train.skip_loss_z] expected 0 (off) or more, got {}", skip_loss_z);
  if (!(skip_grad_z >= 0)) fail_usage("[train.skip_grad_z] expected 0 (off) or more, got {}", skip_grad_z);
  if (max_skips < 1) fail_usage("[train.max_skips] expected 1 or more, got {}", max_skips);
  if (z_window < 2) fail_usage("[train.z_window] expected 2 or more, got {}", z_window);
  // No value is further from the mean of a window that it is in.
  const double highest = std::sqrt(static_cast<double>(z_window - 1));
  if (std::max(skip_loss_z, skip_grad_z) >= highest)
    fail_usage("[train.skip_loss_z] and [train.skip_grad_z]: z-scores over train.z_window = {} steps stay below {:.2f}",
               z_window, highest);
  if (spike_window < 0) fail_usage("[train.spike_window] expected 0 (off) or more, got {}", spike_window);
  if (!(spike_factor > 1)) fail_usage("[train.spike_factor] expected a number above 1, got {}", spike_factor);
  if (spike_patience < 1) fail_usage("[train.spike_patience] expected 1 or more, got {}", spike_patience);
}

UpdateGuard::UpdateGuard(const GuardConfig& config)
    : config_(config), losses_(config.z_window), norms_(config.z_window), spike_losses_(config.spike_window) {}

Judgement UpdateGuard::judge(int64_t step, double loss, double norm, int64_t first, int64_t last) {
  if (!std::isfinite(loss) || !std::isfinite(norm)) {
    const std::string what =
        std::isfinite(loss) ? fmt::format("the gradient's norm is {}", norm) : fmt::format("the loss is {}", loss);
    check(config_.nonfinite != "raise", "[train] step {}: {}; the update was not applied; {}", step, what, kHint);
    return reject(step, config_.nonfinite == "skip" ? Verdict::kSkip : Verdict::kRollback, what);
  }
  losses_.push(loss);
  norms_.push(norm);
  const auto loss_z = losses_.z_score(), norm_z = norms_.z_score();
  Judgement judgement;
  if (exceeds(loss_z, config_.skip_loss_z)) {
    judgement = reject(step, Verdict::kSkip, fmt::format("the loss of {:.4f} has a z-score of {:.2f}", loss, *loss_z));
  } else if (exceeds(norm_z, config_.skip_grad_z)) {
    judgement = reject(step, Verdict::kSkip,
                       fmt::format("the gradient's norm of {:.4f} has a z-score of {:.2f}", norm, *norm_z));
  } else {
    skips_in_a_row_ = 0;
  }
  judgement.loss_z = loss_z;
  judgement.norm_z = norm_z;
  judgement.warning = watch_for_spikes(step, loss, first, last);
  return judgement;
}

Judgement UpdateGuard::reject(int64_t step, Verdict verdict, std::string reason) {
  if (verdict == Verdict::kSkip) {
    ++skips_;
    check(++skips_in_a_row_ <= config_.max_skips,
          "[train] step {}: {}, and the {} steps before it were skipped (train.max_skips); {}", step, reason,
          config_.max_skips, kHint);
  } else {
    ++rollbacks_;
  }
  return {.verdict = verdict, .reason = std::move(reason), .loss_z = {}, .norm_z = {}, .warning = {}};
}

void UpdateGuard::returned(const UpdateGuard& before, int64_t to, int64_t bad, const std::string& reason) {
  rollbacks_ = before.rollbacks_ + 1;
  returns_ = before.returns_ > 0 && before.returned_to_ == to ? before.returns_ + 1 : 1;
  returned_to_ = to;
  check(returns_ <= config_.max_skips,
        "[train] step {}: {}, after {} returns to the same checkpoint (train.max_skips); {}", bad, reason,
        config_.max_skips, kHint);
}

/// Compares the loss with the mean of those before it; says once per rise where it began.
std::string UpdateGuard::watch_for_spikes(int64_t step, double loss, int64_t first, int64_t last) {
  if (config_.spike_window == 0) return {};
  std::string warning;
  const double mean = spike_losses_.full() ? spike_losses_.mean() : 0;
  if (!spike_losses_.full() || loss <= config_.spike_factor * mean) {
    spike_length_ = 0;
  } else {
    if (spike_length_++ == 0) spike_step_ = step, spike_first_ = first;
    if (spike_length_ == config_.spike_patience)
      warning = fmt::format(
          "warning: the loss has been above {} times its mean of {:.4f} since step {} and is {:.4f} at step {}; look "
          "at sequences {} to {} of the data's order",
          config_.spike_factor, mean, spike_step_, loss, step, spike_first_, last - 1);
  }
  spike_losses_.push(loss);
  return warning;
}

Json UpdateGuard::state() const {
  return {{"losses", losses_.state()},
          {"norms", norms_.state()},
          {"spike_losses", spike_losses_.state()},
          {"skips", skips_},
          {"skips_in_a_row", skips_in_a_row_},
          {"rollbacks", rollbacks_},
          {"returned_to", returned_to_},
          {"returns", returns_},
          {"spike_length", spike_length_},
          {"spike_step", spike_step_},
          {"spike_first", spike_first_}};
}

void UpdateGuard::load_state(const Json& state) {
  check(state.is_object() && state.contains("losses") && state.contains("norms") && state.contains("spike_losses"),
        "[trainer.json] expected the guard's state, got {}", state.dump());
  losses_.load_state(state["losses"]);
  norms_.load_state(state["norms"]);
  spike_losses_.load_state(state["spike_losses"]);
  skips_ = count_at(state, "skips", kSource);
  skips_in_a_row_ = count_at(state, "skips_in_a_row", kSource);
  rollbacks_ = count_at(state, "rollbacks", kSource);
  returned_to_ = count_at(state, "returned_to", kSource);
  returns_ = count_at(state, "returns", kSource);
  spike_length_ = count_at(state, "spike_length", kSource);
  spike_step_ = count_at(state, "spike_step", kSource);
  spike_first_ = count_at(state, "spike_first", kSource);
}

}  // namespace megalodon
