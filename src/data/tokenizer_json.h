// Hugging Face's tokenizer.json with a BPE model, of two kinds:
//
//   Llama 2   normalizer Prepend and Replace mark spaces with U+2581, unknown characters are spelled in bytes;
//             decoder Replace, ByteFallback, Fuse, Strip
//   GPT-2     pre-tokenizer and decoder ByteLevel: text is cut into words, tokens stand for bytes
//
// Whatever else a file says that would change ids is refused by name.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "data/bpe.h"

namespace megalodon::data {

struct TokenizerJson {
  struct Token {
    std::string name;  // as the file spells it
    std::string text;  // the bytes it stands for
    bool added = false, special = false;
  };
  std::vector<Token> tokens;  // their places are the ids
  BpeModel bpe;
  bool byte_level = false;    // the GPT-2 kind
  bool prefix_space = false;  // a space is put before the text
  bool strip_space = false;   // and taken away again by the decoder
  std::string unknown;        // name of the unknown token, or ""
};

/// Throws Error with `name` and the rule for a file that is damaged or not of these kinds.
TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view name);

}  // namespace megalodon::data
