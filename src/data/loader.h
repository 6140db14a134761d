// Batches of training sequences from one corpus or a mixture of several: a pure function of (data, options, position),
// so that a run resumes by storing one number.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/mixture.h"
#include "data/sequences.h"
#include "data/token_files.h"

namespace megalodon::data {

/// [batch, length] arrays, row-major. targets[i] is the token after tokens[i], or kIgnoreTarget. starts[i] is 1 where a
/// document begins and where a row begins anew.
struct Batch {
  int64_t batch = 0, length = 0;
  std::vector<int64_t> tokens, targets;
  std::vector<uint8_t> starts;
  bool continues = false;  // every row goes on where the same row of the batch before ended
};

struct LoaderOptions {
  int64_t batch = 1;
  int64_t length = 0;
  uint64_t seed = 0;
  bool shuffle = true;
  Packing packing = Packing::kStream;
  /// For kStateful: batches after which rows begin anew elsewhere; 0: as many as the corpora have tokens for, which
  /// must be two at least.
  int64_t segment = 0;
};

struct Corpus {
  const TokenFile* file = nullptr;
  double weight = 0;  // share of the tokens, relative to the others'; 0 for all of them: as many as they have
};

/// What a run takes from one corpus.
struct CorpusUse {
  double share = 0;   // of all tokens that are no padding, in the long run
  double epochs = 0;  // passes over the corpus
  double fill = 0;    // positions of its sequences that are no padding
};

/// Hands out the corpora's sequences in batches. Every corpus keeps its own epochs, and an epoch has its own order; a
/// batch may hold sequences of two epochs. A kStateful row is followed by its continuation in the next batch, until all
/// rows begin anew together at the end of a segment.
class Loader {
 public:
  /// The files must outlive the loader. Throws Error where a corpus is too short.
  Loader(std::vector<Corpus> corpora, LoaderOptions options);
  Loader(const TokenFile& file, LoaderOptions options) : Loader({{&file}}, options) {}
  /// The batch at the current position; moves on by one batch.
  Batch next();
  /// Sequences handed out so far: all there is to save.
  int64_t position() const { return position_; }
  /// For kStateful a multiple of the batch.
  void seek(int64_t position);
  /// Of all corpora.
  int64_t sequences_per_epoch() const;
  /// Batches that continue each other; 1 where none do.
  int64_t segment() const { return options_.segment; }
  /// What the first `positions` sequences take from each corpus.
  std::vector<CorpusUse> uses(int64_t positions) const;

 private:
  LoaderOptions options_;                              // the segment as it came out
  std::vector<std::unique_ptr<Sequences>> sequences_;  // of each corpus
  Mixture mixture_;                                    // of segments
  int64_t position_ = 0;
};

}  // namespace megalodon::data
