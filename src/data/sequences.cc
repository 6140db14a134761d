#include "data/sequences.h"

#include <algorithm>

#include "base/check.h"
#include "base/permutation.h"

namespace megalodon::data {

uint64_t epoch_key(uint64_t seed, int64_t epoch) {
  constexpr uint64_t kOrderStream = 0x6F72646572;  // the visiting order's own random numbers
  return derive_key(derive_key(seed, kOrderStream), static_cast<uint64_t>(epoch));
}

Packing parse_packing(const std::string& name) {
  if (name == "stream") return Packing::kStream;
  if (name == "documents") return Packing::kDocuments;
  if (name == "stateful") return Packing::kStateful;
  fail_usage("[data.packing] expected stream, documents or stateful, got \"{}\"", name);
}

StreamSequences::StreamSequences(const TokenFile& file, const SequenceOptions& options)
    : file_(file), options_(options) {
  const int64_t tokens = file.tokens(), length = options.length;
  check(options.segment <= (tokens - 1) / length,
        "[loader] '{}' has {} tokens, {} of {} needs {} (one more, for the last target)", file.prefix().string(),
        tokens, options.segment == 1 ? "a sequence" : fmt::format("a segment of {} sequences", options.segment), length,
        options.segment * length + 1);
  // Any offset in [0, length) must leave as many segments; a corpus that fits just one gives up offsets for it.
  const int64_t segment = options.segment * length;
  segments_ = options.shuffle ? std::max<int64_t>((tokens - length) / segment, 1) : (tokens - 1) / segment;
  scratch_.resize(static_cast<size_t>(length) + 1);
}

/// The first token of a segment.
int64_t StreamSequences::begin_of(int64_t segment) const {
  const int64_t size = options_.segment * options_.length, slot = segment % segments_;
  if (!options_.shuffle) return slot * size;
  const uint64_t key = epoch_key(options_.seed, segment / segments_);
  const int64_t offsets = std::min(options_.length, file_.tokens() - segments_ * size);
  const Philox4 random = philox(key, 0);  // permute() draws from other counters
  const uint64_t offset = (uint64_t{random[1]} << 32 | random[0]) % static_cast<uint64_t>(offsets);
  const uint64_t place = permute(static_cast<uint64_t>(slot), static_cast<uint64_t>(segments_), key);
  return static_cast<int64_t>(offset) + static_cast<int64_t>(place) * size;
}

void StreamSequences::read(int64_t index, Row row) {
  const int64_t part = index % options_.segment;
  const int64_t begin = begin_of(index / options_.segment) + part * options_.length, end = begin + options_.length;
  file_.read(begin, scratch_);
  std::copy(scratch_.begin(), scratch_.end() - 1, row.tokens.begin());
  std::copy(scratch_.begin() + 1, scratch_.end(), row.targets.begin());
  std::fill(row.starts.begin(), row.starts.end(), uint8_t{0});
  int64_t document = file_.document_of(begin);
  if (part == 0 || file_.document_begin(document) == begin) row.starts[0] = 1;
  // Token `end` is the last target, so a document that begins there still hides it.
  for (++document; document < file_.documents(); ++document) {
    const int64_t first = file_.document_begin(document);
    if (first > end) break;
    if (first < end) row.starts[static_cast<size_t>(first - begin)] = 1;
    row.targets[static_cast<size_t>(first - begin - 1)] = kIgnoreTarget;
  }
}

}  // namespace megalodon::data
