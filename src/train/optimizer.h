// AdamW over a model's parameters, with clipping by the global norm.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/compat.h"
#include "base/config.h"
#include "io/tensor_file.h"

namespace megalodon {

struct OptimizerConfig {
  double lr = 1e-3, beta1 = 0.9, beta2 = 0.95, eps = 1e-8, weight_decay = 0.1, clip = 1.0;
  bool decay_all = false, eps_uncorrected = false;
  std::vector<std::string> groups = {};  // as parse_group() takes them
  void visit(config::Visitor& visitor);
  void validate() const;
};

/// Parameters that are updated otherwise than the rest.
struct ParameterGroup {
  std::string pattern;       // of names; *, ? and [...] as in those of files, and * matches dots too
  double lr = 1;             // times the run's rate
  double weight_decay = -1;  // instead of the run's, whether or not it would decay them; -1: the run's
  bool matches(const std::string& name) const;
  void visit(config::Visitor& visitor);
};

/// From "PATTERN key=value ...". Throws UsageError.
ParameterGroup parse_group(const std::string& text);

class AdamW {
 public:
  /// `parameters`: named, trained, each once. One belongs to the first of the groups that matches it. Throws UsageError
  /// for a group without parameters.
  AdamW(std::vector<std::pair<std::string, Tensor>> parameters, const OptimizerConfig& config);

  /// The global norm of the gradients (float64, the same bits for any number of threads).
  double gradient_norm() const;
  /// One update at rate lr, times that of a parameter's group; `norm` is gradient_norm(), for clipping: factor clip /
  /// (norm + 1e-6) if below 1.
  void step(double lr, double norm);
  void zero_grad();

  /// Completed updates.
  int64_t updates() const { return updates_; }
  /// exp_avg.<name>, exp_avg_sq.<name>
  std::vector<std::pair<std::string, Tensor>> state() const;
  void load_state(const io::TensorFile& file, int64_t updates);

 private:
  struct Slot {
    std::string name;
    Tensor parameter, exp_avg, exp_avg_sq;
    double decay, lr;  // lr: times the step's
  };
  OptimizerConfig config_;
  std::vector<Slot> slots_;
  int64_t updates_ = 0;
};

}  // namespace megalodon
