#include "ops/registration.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon::ops {

bool is_differentiated(torch::TensorList inputs) {
  return torch::GradMode::is_enabled() &&
         std::any_of(inputs.begin(), inputs.end(), [](const Tensor& input) { return input.requires_grad(); });
}

void refuse_second_derivatives(const char* op) {
  check(!torch::GradMode::is_enabled(),
        "[{}] the kernel has no second derivatives; run with MEGALODON_KERNELS=ref to get them", op);
}

}  // namespace megalodon::ops
