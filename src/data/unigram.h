// SentencePiece's unigram model: the pieces that a text is made of with the highest sum of scores, found by dynamic
// programming from left to right, in time that is linear in the text.
//
// The sums are kept as SentencePiece keeps them (float, rounded after every piece): ties and near-ties then come out
// the same.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/sentencepiece_model.h"
#include "data/trie.h"

namespace megalodon::data {

class Unigram {
 public:
  struct Scratch {
    struct Best {
      float score = 0;
      int32_t token = -1;
      uint32_t begin = 0;
      bool reached = false;
    };
    std::vector<Best> ends;  // the best path to each place of the text
    std::vector<uint32_t> path;
  };

  Unigram() = default;
  /// `texts` are the pieces with spaces for U+2581, empty where text never gives the piece.
  Unigram(const SentencePieceModel& model, const std::vector<std::string>& texts);
  void encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;

 private:
  void find_best(std::string_view text, Scratch& scratch) const;

  Trie trie_;
  std::vector<double> scores_;  // of every piece; floats but for user-defined ones
  float unknown_score_ = 0;
  int32_t unknown_ = 0;
  std::vector<int32_t> byte_tokens_;
};

}  // namespace megalodon::data
