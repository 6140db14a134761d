// What words became, in bounded memory.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace megalodon::data {

/// A hash table of words and their tokens that forgets everything when it is full.
class WordCache {
 public:
  WordCache();
  /// The place of the word: hand it to insert() where found() is false.
  struct Place {
    std::span<const int32_t> tokens;
    uint64_t hash;
    size_t slot;
    bool found;
  };
  Place find(std::string_view word) const;
  void insert(std::string_view word, std::span<const int32_t> tokens, const Place& place);

  size_t size() const { return size_; }

 private:
  struct Slot {
    uint64_t hash = 0;
    uint32_t word = 0, tokens = 0;  // where they begin
    uint16_t word_length = 0, token_count = 0;
  };

  // 64K slots, at most half of them used, hold the words of a few megabytes of text and stay within the second level
  // of caches together with their texts (about 2 MiB).
  static constexpr size_t kSlots = size_t{1} << 16;
  std::vector<Slot> slots_;
  std::string words_;
  std::vector<int32_t> tokens_;
  size_t size_ = 0;
};

}  // namespace megalodon::data
