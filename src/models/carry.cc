#include "models/carry.h"

#include <fmt/format.h>

#include "base/check.h"
#include "models/weights.h"

namespace megalodon {

Tensor last_steps(const Tensor& prior, const Tensor& current, int64_t steps) {
  const int64_t length = current.size(1);
  if (steps <= length || !prior.defined()) return current.narrow(1, length - steps, steps).clone();
  const int64_t kept = steps - length;
  return torch::cat({prior.narrow(1, prior.size(1) - kept, kept), current}, 1);
}

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

std::vector<std::pair<std::string, Tensor>> StreamCarry::tensors() const {
  std::vector<std::pair<std::string, Tensor>> list;
  for (size_t slot = 0; slot < slots_.size(); ++slot)
    for (size_t i = 0; i < slots_[slot].size(); ++i)
      list.emplace_back(fmt::format("{}.{}", slot, i), slots_[slot][i].contiguous());
  return list;
}

void StreamCarry::load(const io::TensorFile& file, torch::Device device) {
  std::vector<State> slots;
  size_t read = 0;
  for (bool more = true; more;) {
    State state;
    while (const io::TensorView* view = file.find(fmt::format("{}.{}", slots.size(), state.size())))
      state.push_back(to_tensor(*view).to(device));
    read += state.size();
    more = !state.empty();
    if (more) slots.push_back(std::move(state));
  }
  check(read == file.tensors().size(), "[carry] expected tensors 0.0, 0.1, …, 1.0, …; {} of {} have other names",
        file.tensors().size() - read, file.tensors().size());
  slots_ = std::move(slots);
}

ReplayCarry::ReplayCarry(State before) : before_(std::move(before)) {
  for (const Tensor& tensor : before_)
    check(!tensor.requires_grad(), "[checkpointing] a state that wants a gradient cannot be recomputed from");
}

}  // namespace megalodon
