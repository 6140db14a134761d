// The specification: which numbers a type can hold, and the product with them, x as it is.
#include "base/check.h"
#include "ops/fixed_matrix/fixed_matrix.h"

namespace megalodon::ops::ref {
namespace {

/// Of numbers that are not negative, and so by their bits.
Tensor round_up(const Tensor& x) {
  return (x.contiguous().view(torch::kInt32) + 0xffff).bitwise_and(-0x10000).view(torch::kFloat32);
}
Tensor cut_off(const Tensor& x) {
  return x.contiguous().view(torch::kInt32).bitwise_and(-0x10000).view(torch::kFloat32);
}
/// x / scale, 0 where that is 0.
Tensor in_units(const Tensor& x, const Tensor& scale) {
  return torch::where(scale == 0, torch::zeros({}), x / scale);
}

Tensor restore_q8(const Tensor& group) {
  const Tensor scale = round_up(group.abs().amax(1, true) / 127);
  return ((in_units(group, scale) + 128.5).floor() - 128) * scale;
}

Tensor restore_q4(const Tensor& group) {
  const Tensor least = group.amin(1, true), low = torch::where(least < 0, -round_up(-least), cut_off(least));
  const Tensor scale = round_up((group.amax(1, true) - low) / 15);
  return (in_units(group - low, scale) + 0.5).floor().clamp_max(15) * scale + low;
}

}  // namespace

Tensor restore_matrix(const Tensor& w_OI, FixedType type) {
  if (type == FixedType::kFloat32) return w_OI;
  if (type == FixedType::kBfloat16) return w_OI.to(torch::kBFloat16).to(torch::kFloat32);
  std::vector<Tensor> parts = {w_OI.narrow(1, 0, 0)};
  for (int64_t i = 0; i < w_OI.size(1); i += kFixedGroup) {
    const Tensor group = w_OI.narrow(1, i, std::min(kFixedGroup, w_OI.size(1) - i));
    parts.push_back(type == FixedType::kQ8 ? restore_q8(group) : restore_q4(group));
  }
  return torch::cat(parts, 1);
}

Tensor fixed_linear(const Tensor& x, const FixedMatrix& w, const Tensor& bias, const Tensor& addend) {
  const Tensor y = torch::linear(x, ops::restore_matrix(w).to(x.scalar_type()), bias);
  return addend.defined() ? y + addend : y;
}

}  // namespace megalodon::ops::ref
