// What stands between a gradient and the weights: numbers that are not finite, outliers and rising losses.
//
//   train.nonfinite   raise      the run ends with an error; nothing was applied
//                     skip       the update is left out and the run goes on with the next batches
//                     rollback   back to the newest checkpoint, on with the batches after the bad ones
//
// Everything a decision depends on is saved with the checkpoint, so a resumed run decides the same.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "base/config.h"
#include "train/outlier.h"

namespace megalodon {

struct GuardConfig {
  std::string nonfinite = "raise";
  double skip_loss_z = 0, skip_grad_z = 0;
  int64_t max_skips = 10, z_window = 128;
  int64_t spike_window = 100, spike_patience = 4;
  double spike_factor = 2;
  void visit(config::Visitor& visitor);
  void validate() const;
};

enum class Verdict { kApply, kSkip, kRollback };

/// Of one step.
struct Judgement {
  Verdict verdict = Verdict::kApply;
  std::string reason;                    // of anything but kApply
  std::optional<double> loss_z, norm_z;  // none before their windows are full, or where the number is not finite
  std::string warning;                   // a line for people; "": nothing to say
};

class UpdateGuard {
 public:
  explicit UpdateGuard(const GuardConfig& config);

  /// Of the step's loss and gradient norm, computed on the sequences [first, last) of the data's order. Throws Error
  /// where the policy is to raise, and where more than train.max_skips steps in succession were to be skipped.
  Judgement judge(int64_t step, double loss, double norm, int64_t first, int64_t last);

  /// Since the run began.
  int64_t skips() const { return skips_; }
  int64_t rollbacks() const { return rollbacks_; }
  /// After load_state() of the checkpoint of step `to`, where the run went because of step `bad`: goes on with the
  /// counts of `before`, the guard that had not judged that step yet, and this rollback. Throws Error where the run has
  /// been there train.max_skips times already, whether or not it was saved there again.
  void returned(const UpdateGuard& before, int64_t to, int64_t bad, const std::string& reason);

  nlohmann::ordered_json state() const;
  void load_state(const nlohmann::ordered_json& state);

 private:
  Judgement reject(int64_t step, Verdict verdict, std::string reason);
  std::string watch_for_spikes(int64_t step, double loss, int64_t first, int64_t last);

  GuardConfig config_;
  Window losses_, norms_, spike_losses_;
  int64_t skips_ = 0, skips_in_a_row_ = 0;
  int64_t rollbacks_ = 0, returned_to_ = 0, returns_ = 0;        // the step of the last rollback, and how often to it
  int64_t spike_length_ = 0, spike_step_ = 0, spike_first_ = 0;  // of the rise that is under way
};

}  // namespace megalodon
