// What the targets of the tokenizers' formats share: the first byte of the input is the length of a text, the text
// follows, and the rest is the tokenizer's file.
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "base/utf8.h"
#include "data/tokenizer.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon::fuzz {

/// Ids are tokens of the vocabulary, every one of them decodes, and what comes out of a text is text.
inline void check_promises(const data::Tokenizer& tokenizer, std::string_view text) {
  const std::vector<int32_t> tokens = tokenizer.encode(text);
  for (const int32_t token : tokens) {
    require(token >= 0 && token < tokenizer.vocabulary());
    tokenizer.decode(token);
  }
  tokenizer.decode_text(tokens);
  require(tokenizer.encode(text) == tokens);
  const auto special = tokenizer.special_tokens();
  for (const auto& id : {special.bos, special.eos, special.pad, special.unk}) {
    require(!id || (*id >= 0 && *id < tokenizer.vocabulary()));
  }
}

template <class Tokenizer>
int run_tokenizer(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  const std::string_view input = text_of(data + 1, size - 1);
  const size_t length = std::min<size_t>(data[0], input.size());
  std::unique_ptr<Tokenizer> tokenizer;
  const bool accepted =
      accepts([&] { tokenizer = std::make_unique<Tokenizer>(std::string(input.substr(length)), "fuzz"); });
  if (!accepted) return 0;
  // Exactly as long as it is, so that a sanitizer sees any read past its end.
  const std::vector<char> text(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(length));
  check_promises(*tokenizer, {text.data(), text.size()});
  return 0;
}

}  // namespace megalodon::fuzz
