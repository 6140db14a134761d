#include "infer/batch_states.h"

#include "base/check.h"

namespace megalodon {
namespace {

constexpr int64_t kAligned = 64;  // words

/// All numbers of a tensor as words.
Tensor words_of(const Tensor& t) {
  const Tensor dense = t.contiguous();
  return (dense.is_complex() ? torch::view_as_real(dense) : dense).view(-1).view(torch::kInt32);
}

}  // namespace

StateLayout::StateLayout(const std::vector<State>& slots) {
  for (const State& state : slots) {
    slots_.emplace_back();
    for (const Tensor& t : state) {
      Part& part = slots_.back().emplace_back();
      if (!t.defined()) continue;
      const auto bytes = static_cast<int64_t>(t.element_size());
      check(bytes >= 4, "[state] expected a type of 4 bytes or more, got {}", c10::toString(t.scalar_type()));
      part = {t.sizes().vec(), t.scalar_type(), words_, t.numel() * bytes / 4};
      words_ += (part.words + kAligned - 1) / kAligned * kAligned;
    }
  }
}

void StateLayout::write(const std::vector<State>& slots, const Tensor& piece) const {
  const Tensor zeros = torch::zeros({kAligned}, piece.options());
  std::vector<Tensor> parts;
  for (size_t slot = 0; slot < slots_.size(); ++slot)
    for (size_t i = 0; i < slots_[slot].size(); ++i) {
      const Part& part = slots_[slot][i];
      if (part.words == 0) continue;
      parts.push_back(words_of(slots[slot][i]));
      if (const int64_t rest = part.words % kAligned; rest > 0) parts.push_back(zeros.narrow(0, 0, kAligned - rest));
    }
  Tensor out = piece;
  if (!parts.empty()) torch::cat_out(out, parts);
}

std::vector<State> StateLayout::read(const Tensor& piece) const {
  std::vector<State> slots;
  for (const std::vector<Part>& parts : slots_) {
    State& state = slots.emplace_back();
    for (const Part& part : parts) {
      Tensor& t = state.emplace_back();
      if (part.type == torch::ScalarType::Undefined) continue;
      const Tensor words = piece.narrow(0, part.begin, part.words);
      const bool complex = c10::isComplexType(part.type);
      t = words.view(complex ? c10::toRealValueType(part.type) : part.type);
      t = complex ? torch::view_as_complex(t.view({-1, 2})).view(part.sizes) : t.view(part.sizes);
    }
  }
  return slots;
}

const std::vector<State>& BatchStates::slots() const {
  if (slots_.empty() && piece_.defined()) slots_ = layout_->read(piece_);
  return slots_;
}

std::shared_ptr<const StateLayout> BatchStates::layout() const {
  if (layout_ == nullptr) layout_ = std::make_shared<const StateLayout>(slots_);
  return layout_;
}

void BatchStates::copy_to(const Tensor& piece) const {
  if (piece_.defined())
    Tensor(piece).copy_(piece_);
  else
    layout()->write(slots_, piece);
}

}  // namespace megalodon
