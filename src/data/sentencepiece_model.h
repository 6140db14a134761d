// SentencePiece's .model files (a protobuf ModelProto), read without the library: it is older than the fixes of its
// known crashes on hostile files, and it brings a protobuf of its own under the names of the one inside libtorch, which
// one program cannot hold both of. Everything is checked before anything is built from it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace megalodon::data {

struct SentencePiece {
  enum Type { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };
  std::string text;  // as stored: a space is U+2581
  float score = 0;
  Type type = kNormal;
};

struct SentencePieceModel {
  enum Kind { kUnigram = 1, kBpe = 2 };
  Kind kind = kUnigram;
  std::vector<SentencePiece> pieces;  // their places are the ids
  // How text is prepared.
  std::string charsmap;  // character replacements, see SentencePieceNormalizer; may be empty
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, whitespace_as_suffix = false;
  std::string unknown_surface = " \xE2\x81\x87 ";  // how an unknown token is shown
  // Ids; -1 where there is none.
  int32_t unknown = -1, bos = -1, eos = -1, pad = -1;
  std::vector<int32_t> byte_tokens;  // of the 256 bytes where unknown characters are spelled in them; else empty
};

/// What is longer would be no token of any use; the library's recursion overflows its stack at 100 KB (#1263).
inline constexpr size_t kMaxPieceBytes = 1024;

/// Throws Error with `name`, the byte and the rule for a file that breaks one, and names features that would change ids
/// and are not supported: word and character models, unescaped spaces, denormalization rules, unused pieces of BPE.
SentencePieceModel parse_sentencepiece_model(std::string_view bytes, std::string_view name);

/// The byte that a piece like "<0x0A>" stands for; -1 for other texts.
int byte_of_piece(std::string_view text);

}  // namespace megalodon::data
