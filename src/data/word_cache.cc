#include "data/word_cache.h"

#include <algorithm>

#include "base/hash.h"

namespace megalodon::data {

WordCache::WordCache() : slots_(kSlots) {}

WordCache::Place WordCache::find(std::string_view word) const {
  const uint64_t hash = xxh3_64(word);
  for (size_t at = hash % kSlots;; at = (at + 1) % kSlots) {
    const Slot& slot = slots_[at];
    if (slot.word_length == 0) return {{}, hash, at, false};
    if (slot.hash == hash && std::string_view(words_).substr(slot.word, slot.word_length) == word)
      return {{tokens_.data() + slot.tokens, slot.token_count}, hash, at, true};
  }
}

void WordCache::insert(std::string_view word, std::span<const int32_t> tokens, const Place& place) {
  size_t at = place.slot;
  if (size_ == kSlots / 2) {
    std::fill(slots_.begin(), slots_.end(), Slot());
    words_.clear();
    tokens_.clear();
    size_ = 0;
    at = place.hash % kSlots;
  }
  slots_[at] = {place.hash, static_cast<uint32_t>(words_.size()), static_cast<uint32_t>(tokens_.size()),
                static_cast<uint16_t>(word.size()), static_cast<uint16_t>(tokens.size())};
  words_ += word;
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  ++size_;
}

}  // namespace megalodon::data
