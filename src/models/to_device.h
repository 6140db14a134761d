// What callers hand over, brought to where the parameters are.
#pragma once

#include "base/compat.h"

namespace megalodon {

/// Through pinned memory, from which a GPU fetches it in its own time. Undefined stays undefined.
inline Tensor to_device(const Tensor& t, torch::Device device) {
  if (!t.defined() || t.device() == device) return t;
  return t.is_cpu() && device.is_cuda() ? t.pin_memory().to(device, /*non_blocking=*/true) : t.to(device);
}

}  // namespace megalodon
