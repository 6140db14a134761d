// Batches of labelled sequences: a pure function of (data, options, position), so that a run resumes by storing one
// number.
#pragma once

#include <cstdint>
#include <vector>

#include "data/examples.h"

namespace megalodon::data {

struct ExampleBatch {
  int64_t examples = 0;
  std::vector<int64_t> labels;  // [examples]
  /// The first or the second sequences of all examples, with zeros behind those that are shorter than the longest.
  struct Side {
    int64_t length = 0;            // steps, of the longest one here
    std::vector<int64_t> lengths;  // [examples]
    std::vector<int64_t> tokens;   // [examples, length]; or
    std::vector<float> vectors;    // [examples, length, width]
  };
  std::vector<Side> sides;  // 1 or 2
};

struct ExampleLoaderOptions {
  int64_t batch = 1;
  int64_t longest = 0;  // steps of a sequence; what is behind is cut off; 0: all
  uint64_t seed = 0;
  bool shuffle = true;
};

/// Hands out all examples epoch after epoch, each epoch in its own order (without shuffling in the file's); a batch may
/// hold examples of two epochs.
class ExampleLoader {
 public:
  /// The file must outlive the loader.
  ExampleLoader(const ExampleFile& file, ExampleLoaderOptions options);
  /// The batch at the current position; moves on by one batch.
  ExampleBatch next();
  /// Examples handed out so far: all there is to save.
  int64_t position() const { return position_; }
  void seek(int64_t position);

 private:
  int64_t example_at(int64_t position) const;
  ExampleBatch::Side read_side(const std::vector<int64_t>& examples, int64_t sequence) const;

  const ExampleFile& file_;
  ExampleLoaderOptions options_;
  int64_t position_ = 0;
};

}  // namespace megalodon::data
