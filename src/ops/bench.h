// What `megalodon bench ops` times: every operator declares its cases in <op>_bench.cc, on the sizes of real layers.
#pragma once

#include <fmt/format.h>

#include <functional>
#include <map>
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

/// Makes cases: their tensors need not all be there at once.
using MakeCases = std::vector<Case> (*)(torch::Device);
/// Every <op>_bench.cc adds its cases: `const bool <op>_added = add_cases("<op>", <op>_cases);`
bool add_cases(const char* op, MakeCases make) noexcept;
/// All of them, by the operator's name.
const std::map<std::string, MakeCases>& all_cases();

}  // namespace megalodon::ops::bench
