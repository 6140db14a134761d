#include "infer/pass.h"

#include "models/to_device.h"

namespace megalodon {
namespace {

/// The states of a batch's rows, and their caches.
class BatchCarry final : public Carry {
 public:
  BatchCarry(const std::vector<State>& before, const std::vector<ops::KeyValueRows>& caches)
      : before_(before), caches_(caches) {}
  State before(int64_t slot) override {
    return slot < std::ssize(before_) ? before_[static_cast<size_t>(slot)] : State();
  }
  bool wants_after() const override { return true; }
  void after(int64_t slot, State state) override {
    if (slot >= std::ssize(after_)) after_.resize(static_cast<size_t>(slot) + 1);
    after_[static_cast<size_t>(slot)] = std::move(state);
  }
  const ops::KeyValueRows* caches(int64_t slot) override {
    return slot < std::ssize(caches_) ? &caches_[static_cast<size_t>(slot)] : nullptr;
  }
  std::vector<State> take_after() { return std::move(after_); }

 private:
  const std::vector<State>& before_;
  const std::vector<ops::KeyValueRows>& caches_;
  std::vector<State> after_;
};

}  // namespace

PassResult run_pass(Model& model, const Tensor& tokens_BL, const std::vector<State>& before,
                    std::vector<ops::KeyValueRows> caches) {
  if (model.device().is_cuda() && !caches.empty() && !caches[0].table_B3.defined()) {  // for all slots at once
    const Tensor tables_SB3 = to_device(ops::key_value_tables(caches), model.device());
    for (size_t slot = 0; slot < caches.size(); ++slot) caches[slot].table_B3 = tables_SB3[static_cast<int64_t>(slot)];
  }
  BatchCarry carry(before, caches);
  const Tensor hidden_BLD = model.hidden({tokens_BL, {}}, carry);
  const Tensor logits_BV = model.logits_of(hidden_BLD.select(1, tokens_BL.size(1) - 1), nn::Precision::kFloat32);
  return {hidden_BLD, logits_BV, carry.take_after()};
}

}  // namespace megalodon
