// How SentencePiece prepares text: characters are replaced by rule, ill-formed bytes by U+FFFD (one for each), spaces
// are marked.
//
// The rules are a file of their own inside the model:
//
//   u32 bytes of the trie | the trie: 32-bit units of a double array | replacements, each ended by a zero byte
//
// A unit of the double array (Darts-clone's) says:  bits 0-7 and 31 the label | 8 a leaf follows | 9-30 where the
// children are;  of a leaf: bits 0-30 the value, here the place of the replacement.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/sentencepiece_model.h"
#include "data/trie.h"

namespace megalodon::data {

/// U+2581, which stands for a space in the texts of pieces.
inline constexpr std::string_view kMarkedSpace = "\xE2\x96\x81";

/// The rule that the header or the end of such a file breaks, or "". (Places inside are checked when they are used.)
std::string charsmap_problem(std::string_view charsmap);

/// Spaces for U+2581, the mark of a space.
std::string unmark_spaces(std::string_view text);

class SentencePieceNormalizer {
 public:
  explicit SentencePieceNormalizer(const SentencePieceModel& model);
  /// The text with spaces where SentencePiece has U+2581: there, the two mean the same.
  std::string normalize(std::string_view text) const;

 private:
  struct Part {
    std::string_view text;
    size_t length;  // in the input
  };

  Part first_part(std::string_view text) const;
  Part longest_rule(std::string_view text) const;
  std::string replace_only(std::string_view text) const;
  std::string with_rules(std::string_view text) const;

  bool dummy_prefix_, remove_extra_, suffix_;
  std::vector<uint32_t> units_;
  std::string replacements_;
  Trie user_defined_;  // taken as they are
};

}  // namespace megalodon::data
