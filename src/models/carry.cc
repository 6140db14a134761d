#include "models/carry.h"

namespace megalodon {

State StreamCarry::before(int64_t slot) {
  return slot < static_cast<int64_t>(slots_.size()) ? slots_[slot] : State();
}

void StreamCarry::after(int64_t slot, State state) {
  if (slot >= static_cast<int64_t>(slots_.size())) slots_.resize(slot + 1);
  // Detached: a stream's past is data. Truncated backpropagation is the most a stateful trainer could want of it.
  for (Tensor& tensor : state) tensor = tensor.detach();
  slots_[slot] = std::move(state);
}

int64_t StreamCarry::bytes() const {
  int64_t total = 0;
  for (const State& state : slots_)
    for (const Tensor& tensor : state) total += tensor.numel() * static_cast<int64_t>(tensor.element_size());
  return total;
}

}  // namespace megalodon
