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

/// The operators' tensors are on `device`.
std::vector<Case> cases(const std::vector<Operator>& operators, torch::Device device);

/// N(0, 1) numbers.
inline Tensor normal(torch::IntArrayRef sizes, torch::Device device, torch::ScalarType type = torch::kFloat32) {
  return torch::randn(sizes, torch::TensorOptions(device).dtype(torch::kFloat32)).to(type);
}

/// Types of activations that are worth timing: a CPU's kernels take bfloat16 next to matrix products alone, and their
/// cases say so.
inline std::vector<torch::ScalarType> activation_types(torch::Device device) {
  if (device.is_cuda()) return {torch::kFloat32, torch::kBFloat16};
  return {torch::kFloat32};
}

/// What a case's shape says of a type: nothing of float32.
inline std::string type_text(torch::ScalarType type) {
  return type == torch::kBFloat16 ? ", bfloat16" : "";
}
inline double bytes_of(torch::ScalarType type) {
  return static_cast<double>(c10::elementSize(type));
}
/// The largest error allowed, where float32 may have that one.
inline double tolerance_of(torch::ScalarType type, double float32) {
  return type == torch::kBFloat16 ? 2e-2 : float32;
}

std::vector<Case> adamw_cases(torch::Device device);
std::vector<Case> chunk_attention_cases(torch::Device device);
std::vector<Case> dropout_cases(torch::Device device);
std::vector<Case> gated_silu_cases(torch::Device device);
std::vector<Case> linear_cases(torch::Device device);
std::vector<Case> linear_cross_entropy_cases(torch::Device device);
std::vector<Case> linear_recurrence_cases(torch::Device device);
std::vector<Case> query_key_cases(torch::Device device);
std::vector<Case> rotary_cases(torch::Device device);
std::vector<Case> row_norm_cases(torch::Device device);
std::vector<Case> timestep_norm_cases(torch::Device device);

/// The functions above by the operator's name: their tensors need not all be there at once.
const std::vector<std::pair<std::string, std::vector<Case> (*)(torch::Device)>>& all_cases();

}  // namespace megalodon::ops::bench
