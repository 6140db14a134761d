// Sequences of whole documents. Shorter documents share a sequence, each with its own start; a document longer than a
// sequence is cut into pieces, and what is left of a sequence is padding.
//
// Every pair of a token and its successor in the same document is a position of an epoch exactly once, and there are no
// other positions but padding: the last token of a document is a target only, and a document of one token is none.
#pragma once

#include <cstdint>
#include <vector>

#include "data/sequences.h"

namespace megalodon::data {

/// Part of a document: tokens [begin, begin + count) of the concatenation, each of which has a successor.
struct Piece {
  int64_t begin = 0, count = 0;
};

/// Pieces grouped by the sequence that they share: sequence i has pieces [first[i], first[i + 1]).
struct PackedPieces {
  std::vector<Piece> pieces;
  std::vector<size_t> first = {0};
  int64_t sequences() const { return static_cast<int64_t>(first.size()) - 1; }
};

/// Best-fit decreasing: the longest piece first, each into the fullest sequence of `capacity` positions that still has
/// room for it. No piece may be longer than that. A pure function of the arguments, in O(n log n).
PackedPieces pack(std::vector<Piece> pieces, int64_t capacity);

/// Documents in an order of the seed's own fall into pools, and each pool is packed by itself, so that memory does not
/// grow with the corpus (but for 16 bytes a pool) and no more than a pool has to be packed to read any sequence. What
/// shares a sequence is the same in every epoch, which nobody can see: documents that share one do not meet. The order
/// of the pools and of the sequences in a pool is every epoch's own.
class PackedSequences final : public Sequences {
 public:
  /// `file` must outlive this. Packs every pool once, to count its sequences. Throws Error where no document has two
  /// tokens.
  PackedSequences(const TokenFile& file, const SequenceOptions& options);
  int64_t per_epoch() const override { return per_epoch_; }
  double fill() const override { return fill_; }
  void read(int64_t index, Row row) override;

 private:
  PackedPieces pack_pool(int64_t pool) const;
  int64_t pool_at(int64_t epoch, int64_t place) const;
  void open(int64_t epoch, int64_t slot);

  const TokenFile& file_;
  SequenceOptions options_;
  int64_t documents_per_pool_ = 0, pools_ = 0, per_epoch_ = 0;
  double fill_ = 0;
  std::vector<int64_t> pool_sequences_;  // of each pool
  std::vector<int64_t> scratch_;         // a piece's tokens and the one after them
  // What was read last and is probably wanted next.
  int64_t epoch_ = -1, pool_ = -1;
  int64_t pool_begin_ = 0;         // the open pool's first sequence in its epoch
  std::vector<int64_t> pool_end_;  // of the epoch, in its order
  PackedPieces open_;
};

}  // namespace megalodon::data
