// What the rows of a batch hand from one pass to the next, as tensors or in one piece of memory.
#pragma once

#include <memory>
#include <vector>

#include "models/carry.h"

namespace megalodon {

/// Where the tensors of all slots lie in one piece, [words] int32, so that they are copied as one. Each begins at a
/// multiple of 256 bytes of it.
class StateLayout {
 public:
  /// Of states like these, of types of 4 bytes or more.
  explicit StateLayout(const std::vector<State>& slots);
  bool operator==(const StateLayout&) const = default;

  int64_t words() const { return words_; }
  /// Writes the tensors into one piece.
  void write(const std::vector<State>& slots, const Tensor& piece) const;
  /// The tensors in one piece, which they share.
  std::vector<State> read(const Tensor& piece) const;

 private:
  struct Part {
    std::vector<int64_t> sizes;
    torch::ScalarType type = torch::ScalarType::Undefined;  // of a tensor that is not there
    int64_t begin = 0, words = 0;
    bool operator==(const Part&) const = default;
  };
  std::vector<std::vector<Part>> slots_;
  int64_t words_ = 0;
};

/// Slot by slot; never written to.
class BatchStates {
 public:
  BatchStates(std::vector<State> slots, int64_t rows) : slots_(std::move(slots)), rows_(rows) {}
  BatchStates(std::shared_ptr<const StateLayout> layout, Tensor piece, int64_t rows)
      : layout_(std::move(layout)), piece_(std::move(piece)), rows_(rows) {}

  int64_t rows() const { return rows_; }
  /// Taken out of the piece where nobody has asked before.
  const std::vector<State>& slots() const;
  std::shared_ptr<const StateLayout> layout() const;
  /// Into another piece of the same layout.
  void copy_to(const Tensor& piece) const;

 private:
  mutable std::vector<State> slots_;
  mutable std::shared_ptr<const StateLayout> layout_;
  Tensor piece_;  // undefined where there are only tensors
  int64_t rows_;
};

}  // namespace megalodon
