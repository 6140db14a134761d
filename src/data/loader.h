// Batches of training sequences from a token file: a pure function of (data, options, position), so that a run resumes
// by storing one number.
#pragma once

#include <cstdint>
#include <vector>

#include "data/token_files.h"

namespace megalodon::data {

/// Target of a position whose successor is another document (or none): no loss there.
inline constexpr int64_t kIgnoreTarget = -100;

/// [batch, length] arrays, row-major. targets[i] is the token after tokens[i]. starts[i] is 1 where a document begins;
/// the first position of a row is always a start as far as the model is concerned (no state comes before it).
struct Batch {
  int64_t batch = 0, length = 0;
  std::vector<int64_t> tokens, targets;
  std::vector<uint8_t> starts;
};

struct LoaderOptions {
  int64_t batch = 1;
  int64_t length = 0;
  uint64_t seed = 0;
  bool shuffle = true;
};

/// Cuts the concatenation of all documents into sequences of `length` tokens and visits them epoch by epoch, each
/// epoch in its own order and from its own random offset, so that no token is always at a sequence's edge. Without
/// shuffling every epoch goes from the first token to the last. A batch may hold sequences of two epochs.
class Loader {
 public:
  /// `file` must outlive the loader. Throws Error where the corpus is too short for one sequence.
  Loader(const TokenFile& file, LoaderOptions options);
  /// The batch at the current position; moves on by one batch.
  Batch next();
  /// Sequences handed out so far: all there is to save.
  int64_t position() const { return position_; }
  void seek(int64_t position);
  int64_t sequences_per_epoch() const { return sequences_; }

 private:
  int64_t begin_of(int64_t position) const;
  void fill_row(int64_t begin, int64_t row, Batch& batch);

  const TokenFile& file_;
  LoaderOptions options_;
  int64_t sequences_ = 0;
  std::vector<int64_t> scratch_;  // a row's tokens and the one after them
  int64_t position_ = 0;
};

}  // namespace megalodon::data
