// Work for a GPU that is recorded once and then queued as a whole. Where kernels take microseconds each, what queues
// them one by one takes longer than they do.
#pragma once

#include <functional>
#include <memory>

#include "base/compat.h"

namespace megalodon::ops {

/// What was recorded, and the memory that the work takes besides what was there before.
class Recording {
 public:
  Recording() = default;
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  virtual ~Recording() = default;

  /// Queues the work again, on the current stream: the same kernels with the same addresses.
  virtual void repeat() = 0;
};

/// Records what work() queues. Nothing of it is done: repeat() does it, the first time too. The work must not wait for
/// the GPU nor depend on its numbers, and whatever is made once, when it is first needed, has to be there. Throws
/// where it does not keep to that; the work is then of no effect.
using Recorder = std::function<std::unique_ptr<Recording>(const std::function<void()>& work)>;

/// Of a GPU. Null of a device that has no such thing, and where references stand for kernels: they read on the host
/// what kernels read on the GPU.
Recorder recorder_of(torch::Device device);

}  // namespace megalodon::ops
