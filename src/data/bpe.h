// Byte-pair encoding: a word begins as its characters, and the pair of neighbours with the lowest rank (of equal ones
// the leftmost) is merged again and again until no pair has one. SentencePiece's models and tokenizer.json both come
// down to this.
//
// Two things make it quick and keep it exact:
//   - Text is cut wherever two neighbouring characters stand side by side in no merged symbol: no merge can cross such
//     a place, so the words between them are encoded on their own. Which places these are follows from the vocabulary
//     alone; in Llama 2's, every space that follows a letter is one.
//   - Words repeat, so what a short one became is remembered.
// Merging takes O(n log n) for a word of n characters.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "data/word_cache.h"

namespace megalodon::data {

/// A vocabulary. Symbols below `tokens` are tokens; the others are characters that only occur inside tokens.
struct BpeModel {
  struct Merge {
    int32_t left, right, result;  // symbols
    uint32_t rank;                // lowest first
  };
  std::vector<std::string> symbols;  // their texts; empty for what text never becomes
  int32_t tokens = 0;
  std::vector<Merge> merges;           // each pair once; text(result) = text(left) + text(right)
  bool byte_level = false;             // characters are bytes; else code points of UTF-8
  std::vector<int32_t> byte_fallback;  // the tokens of the 256 bytes, which spell unknown characters; or none
  int32_t unknown = -1;                // the token of unknown characters where there is no fallback
  bool fuse_unknown = true;            // neighbouring ones become one
};

class Bpe {
 public:
  /// What encode() works with; one thread at a time.
  struct Scratch {
    WordCache cache;
    struct Symbol {
      int32_t id;
      uint32_t begin, previous, next;
    };
    struct Candidate {
      uint32_t rank, left, right;
      int32_t left_id, right_id, result;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::vector<int32_t> tokens;
  };

  Bpe() = default;
  explicit Bpe(const BpeModel& model);
  /// Appends the tokens of a text.
  void encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  struct Character {
    uint32_t code;
    size_t length;
  };
  struct Target {
    uint32_t rank;
    int32_t result;
  };

  Character character(std::string_view text, size_t at) const;
  void add_pairs(std::string_view text);
  bool joins(uint32_t left, uint32_t right) const;
  int32_t symbol_of(uint32_t code) const;
  void encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;
  void merge(std::string_view word, Scratch& scratch) const;
  void split(std::string_view word, Scratch& scratch) const;
  void push_candidate(uint32_t left, uint32_t right, Scratch& scratch) const;
  void collect(std::string_view word, Scratch& scratch) const;
  void append(const int32_t* tokens, size_t count, std::vector<int32_t>& out) const;

  static constexpr uint32_t kSmall = 256;  // characters below have tables
  std::array<int32_t, kSmall> small_symbols_{};
  std::unordered_map<uint32_t, int32_t> symbols_;
  std::bitset<size_t{kSmall} * kSmall> small_pairs_;  // neighbours inside a symbol
  std::unordered_set<uint64_t> pairs_;
  std::unordered_map<uint64_t, Target> merges_;
  int32_t tokens_ = 0, unknown_ = -1;
  bool byte_level_ = false, fuse_unknown_ = true;
  std::vector<int32_t> byte_fallback_;
};

}  // namespace megalodon::data
