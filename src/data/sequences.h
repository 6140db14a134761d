// One corpus as numbered sequences of one length, epoch after epoch: what a Loader composes its batches from. Sequence
// i is a pure function of (tokens, options, i), so that any of them can be had without those before it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/token_files.h"

namespace megalodon::data {

/// Target of a position whose successor is another document (or none): no loss there.
inline constexpr int64_t kIgnoreTarget = -100;

/// How documents fill sequences.
enum class Packing {
  kStream,     // the concatenation of all documents, cut every `length` tokens
  kDocuments,  // whole documents, as many as fit; the rest is padding
  kStateful,   // as kStream, but a row goes on where the batch before it ended
};
/// "stream", "documents", "stateful"; throws UsageError for anything else.
Packing parse_packing(const std::string& name);

/// Where a sequence is written: three arrays of its length. targets[i] is the token after tokens[i]; starts[i] is 1
/// where a document begins.
struct Row {
  std::span<int64_t> tokens, targets;
  std::span<uint8_t> starts;
};

struct SequenceOptions {
  int64_t length = 0;
  int64_t segment = 1;  // sequences in a row that go on where the one before ended; the order is one of segments
  uint64_t seed = 0;
  bool shuffle = true;
};

class Sequences {
 public:
  virtual ~Sequences() = default;
  /// Sequences of an epoch: whole segments.
  virtual int64_t per_epoch() const = 0;
  /// The share of an epoch's positions that are no padding.
  virtual double fill() const = 0;
  /// Sequence `index`, counted over all epochs. Overwrites all of `row`.
  virtual void read(int64_t index, Row row) = 0;
};

/// Cuts the concatenation of all documents and visits the segments epoch by epoch, each epoch in its own order and from
/// its own random offset, so that no token is always at a sequence's edge. Without shuffling every epoch goes from the
/// first token to the last.
class StreamSequences final : public Sequences {
 public:
  /// `file` must outlive this. Throws Error where the corpus is too short for one segment.
  StreamSequences(const TokenFile& file, const SequenceOptions& options);
  int64_t per_epoch() const override { return segments_ * options_.segment; }
  double fill() const override { return 1; }
  void read(int64_t index, Row row) override;

 private:
  int64_t begin_of(int64_t segment) const;

  const TokenFile& file_;
  SequenceOptions options_;
  int64_t segments_ = 0;          // of an epoch
  std::vector<int64_t> scratch_;  // a sequence's tokens and the one after them
};

/// The same for every run of a seed, different for every epoch.
uint64_t epoch_key(uint64_t seed, int64_t epoch);

}  // namespace megalodon::data
