// What `megalodon bench ops` times: every operator declares its cases in <op>_bench.cc, on the sizes of real layers.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <string>
#include <vector>

#include "base/compat.h"

namespace megalodon::ops::bench {

using Tensors = std::vector<Tensor>;

/// What one call has to move and to compute at least. What an implementation does besides is no merit of its own.
struct Work {
  double bytes = 0, flops = 0;
};

struct Case {
  std::string op, pass, shape;
  Work work;
  double tolerance = 0;
  std::function<double()> error;  // the largest difference to float64, in units of the tensor's largest magnitude
  std::function<void()> run;
};

/// An operator as a function of tensors, to be timed forward and, where it has leaves, forward and backward.
struct Operator {
  std::string name, shape;
  size_t leaves = 0;             // the first so many inputs have gradients
  Tensors inputs, checked = {};  // timed with; compared on, where all of `inputs` would take too long
  std::function<Tensor(const Tensors&)> kernel, reference;
  Work forward, backward = {};
  double tolerance = 1e-5;
};

std::vector<Case> cases(const std::vector<Operator>& operators);

std::vector<Case> adamw_cases();
std::vector<Case> chunk_attention_cases();
std::vector<Case> dropout_cases();
std::vector<Case> gated_silu_cases();
std::vector<Case> linear_cases();
std::vector<Case> linear_cross_entropy_cases();
std::vector<Case> linear_recurrence_cases();
std::vector<Case> rotary_cases();
std::vector<Case> row_norm_cases();
std::vector<Case> timestep_norm_cases();

/// The functions above by the operator's name: their tensors need not all be there at once.
const std::vector<std::pair<std::string, std::vector<Case> (*)()>>& all_cases();

}  // namespace megalodon::ops::bench
