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
  void visit(config::Visitor& visitor);
  void validate() const;
};

class AdamW {
 public:
  /// `parameters`: named, trained, each once.
  AdamW(std::vector<std::pair<std::string, Tensor>> parameters, const OptimizerConfig& config);

  /// The global norm of the gradients (float64, the same bits for any number of threads).
  double gradient_norm() const;
  /// One update at rate lr; `norm` is gradient_norm(), for clipping: factor clip / (norm + 1e-6) if below 1.
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
    double decay;
  };
  OptimizerConfig config_;
  std::vector<Slot> slots_;
  int64_t updates_ = 0;
};

}  // namespace megalodon
