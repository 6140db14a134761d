#include "ops/registration.h"

#include <algorithm>

#include <cstdlib>
#include <string_view>

#include "base/check.h"

namespace megalodon::ops {

bool use_reference() {
  static const bool reference = [] {
    const char* value = std::getenv("MEGALODON_KERNELS");
    if (value == nullptr || *value == '\0') return false;
    check(std::string_view(value) == "ref", "[MEGALODON_KERNELS] expected \"ref\" or nothing, got \"{}\"", value);
    return true;
  }();
  return reference;
}

bool use_cpu_kernel(const Tensor& x) {
  return x.device().is_cpu() && x.scalar_type() == torch::kFloat32 && !use_reference();
}

bool is_differentiated(torch::TensorList inputs) {
  return torch::GradMode::is_enabled() &&
         std::any_of(inputs.begin(), inputs.end(), [](const Tensor& input) { return input.requires_grad(); });
}

void refuse_second_derivatives(const char* op) {
  check(!torch::GradMode::is_enabled(),
        "[{}] the kernel has no second derivatives; run with MEGALODON_KERNELS=ref to get them", op);
}

}  // namespace megalodon::ops
