// Carry: the one seam for everything that crosses a stretch of tokens. Training on one device, streaming and
// chunk-parallel training differ only in where a layer's past comes from, so a model asks its Carry for what precedes
// the stretch and tells it what follows, slot by slot, and cannot tell the implementations apart.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/compat.h"
#include "io/tensor_file.h"
#include "ops/cached_attention/cached_attention.h"

namespace megalodon {

/// What one slot hands from a stretch of tokens to the next: the packed tensors of one layer's state. Empty: nothing
/// precedes. The size depends on batch and configuration, never on the tokens seen; of full attention alone it grows.
using State = std::vector<Tensor>;

/// The last `steps` of prior and current along axis 1, time. Prior may be undefined: then there are only so many.
Tensor last_steps(const Tensor& prior, const Tensor& current, int64_t steps);

class Carry {
 public:
  virtual ~Carry() = default;
  /// What precedes this stretch in the slot; empty where a stream begins.
  virtual State before(int64_t slot) = 0;
  /// False where nobody will read the final states: operators then skip that work.
  virtual bool wants_after() const = 0;
  virtual void after(int64_t slot, State state) = 0;
  /// Where the slot's attention is to keep its keys and values, in place, one cache for every row; null where they are
  /// part of the state.
  virtual const ops::KeyValueRows* caches(int64_t /*slot*/) { return nullptr; }
};

/// Plain training: every row begins a stream, and nothing follows.
class NoCarry final : public Carry {
 public:
  State before(int64_t) override { return {}; }
  bool wants_after() const override { return false; }
  void after(int64_t, State) override {}
};

/// Streaming: stored states, replaced by each stretch. Any split of a sequence into calls gives the same result as one
/// pass. Copying one is cheap (tensors are shared and never written in place): that is how conversations branch.
class StreamCarry final : public Carry {
 public:
  State before(int64_t slot) override;
  bool wants_after() const override { return true; }
  void after(int64_t slot, State state) override;

  const std::vector<State>& slots() const { return slots_; }
  std::vector<State>& slots() { return slots_; }
  int64_t bytes() const;

  /// Everything, for a file: tensor j of slot i is "i.j".
  std::vector<std::pair<std::string, Tensor>> tensors() const;
  /// Throws Error for a file that tensors() did not make.
  void load(const io::TensorFile& file, torch::Device device = torch::kCPU);

 private:
  std::vector<State> slots_;
};

/// For running one layer a second time, in the backward pass: what it began with. What followed was told the first
/// time.
class ReplayCarry final : public Carry {
 public:
  /// Throws Error for a state that wants a gradient, which would be lost on this way.
  explicit ReplayCarry(State before);
  State before(int64_t) override { return before_; }
  bool wants_after() const override { return false; }
  void after(int64_t, State) override {}

 private:
  State before_;
};

}  // namespace megalodon
