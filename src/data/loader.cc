#include "data/loader.h"

#include <algorithm>

#include "base/check.h"
#include "base/permutation.h"

namespace megalodon::data {
namespace {

constexpr uint64_t kOrderStream = 0x6F72646572;  // the visiting order's own random numbers

/// The same for every run of a seed, different for every epoch.
uint64_t epoch_key(uint64_t seed, int64_t epoch) {
  return derive_key(derive_key(seed, kOrderStream), static_cast<uint64_t>(epoch));
}

}  // namespace

Loader::Loader(const TokenFile& file, LoaderOptions options) : file_(file), options_(options) {
  check(options.batch >= 1, "[loader] batch must be at least 1, got {}", options.batch);
  check(options.length >= 1, "[loader] length must be at least 1, got {}", options.length);
  const int64_t tokens = file.tokens(), length = options.length;
  check(tokens > length, "[loader] '{}' has {} tokens, a sequence of {} needs {} (one more, for the last target)",
        file.prefix().string(), tokens, length, length + 1);
  // Any offset in [0, length) must leave the same number of sequences; a corpus that fits one gives up offsets for it.
  sequences_ = options.shuffle ? std::max<int64_t>((tokens - length) / length, 1) : (tokens - 1) / length;
  scratch_.resize(static_cast<size_t>(length) + 1);
}

void Loader::seek(int64_t position) {
  check(position >= 0, "[loader] position must not be negative, got {}", position);
  position_ = position;
}

/// The first token of the sequence at `position`.
int64_t Loader::begin_of(int64_t position) const {
  const int64_t slot = position % sequences_;
  if (!options_.shuffle) return slot * options_.length;
  const uint64_t key = epoch_key(options_.seed, position / sequences_);
  const int64_t offsets = std::min(options_.length, file_.tokens() - sequences_ * options_.length);
  const Philox4 random = philox(key, 0);  // permute() draws from other counters
  const uint64_t offset = (uint64_t{random[1]} << 32 | random[0]) % static_cast<uint64_t>(offsets);
  const uint64_t sequence = permute(static_cast<uint64_t>(slot), static_cast<uint64_t>(sequences_), key);
  return static_cast<int64_t>(offset) + static_cast<int64_t>(sequence) * options_.length;
}

void Loader::fill_row(int64_t begin, int64_t row, Batch& batch) {
  const int64_t length = options_.length, end = begin + length;
  file_.read(begin, scratch_);
  const int64_t at = row * length;
  std::copy(scratch_.begin(), scratch_.end() - 1, batch.tokens.begin() + at);
  std::copy(scratch_.begin() + 1, scratch_.end(), batch.targets.begin() + at);
  batch.starts[static_cast<size_t>(at)] = 1;
  // Token `end` is the last target, so a document that begins there still hides it.
  for (int64_t document = file_.document_of(begin) + 1; document < file_.documents(); ++document) {
    const int64_t first = file_.document_begin(document);
    if (first > end) break;
    if (first < end) batch.starts[static_cast<size_t>(at + first - begin)] = 1;
    batch.targets[static_cast<size_t>(at + first - begin - 1)] = kIgnoreTarget;
  }
}

Batch Loader::next() {
  const auto size = static_cast<size_t>(options_.batch * options_.length);
  Batch batch{options_.batch, options_.length, std::vector<int64_t>(size), std::vector<int64_t>(size),
              std::vector<uint8_t>(size)};
  for (int64_t row = 0; row < options_.batch; ++row) fill_row(begin_of(position_ + row), row, batch);
  position_ += options_.batch;
  return batch;
}

}  // namespace megalodon::data
