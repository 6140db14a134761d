// Words between white space as tokens, for corpora that come as words: WikiText-103, Penn Treebank.
#pragma once

#include <unordered_map>

#include "data/file_tokenizer.h"

namespace megalodon::data {

/// What stands for words that are not listed, and for the end of a line.
inline constexpr std::string_view kUnknownWord = "<unk>", kLineEnd = "<eos>";
inline constexpr size_t kMaxWordBytes = 1024;

/// Of ASCII: Unicode's other spaces are parts of words.
inline bool is_white_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

/// From a file of one word a line: its id is the line's number, from 0. Where <unk> is listed, it stands for all words
/// that are not; where <eos> is listed, line ends are tokens, else they are white space. Spelled out in a text both are
/// the tokens they name: texts of such corpora have <unk> in them.
///
/// Text comes back as words joined by a space, and <eos> as a line end: white space is not kept, and words that are not
/// listed are <unk>.
class WordTokenizer final : public FileTokenizer {
 public:
  static constexpr const char* kFile = "tokenizer.words";
  static constexpr size_t kMaxWords = size_t{1} << 24;

  /// From the content of a file; `name` is for messages. Throws Error, with the line, for a word that is empty, has
  /// white space in it, is longer than kMaxWordBytes or stands there twice, and for a file of no word or more than
  /// kMaxWords.
  WordTokenizer(std::string bytes, std::string_view name, TokenizerConfig config = {});
  WordTokenizer(const WordTokenizer&) = delete;  // the words lie in its own copy of the file

  int64_t vocabulary() const override { return static_cast<int64_t>(words_.size()); }
  /// Throws Error for a word that is not listed where there is no <unk>.
  std::vector<int32_t> encode(std::string_view text) const override;
  /// " word", and "\n" for <eos>.
  std::string decode(int32_t token) const override;
  std::string decode_text(std::span<const int32_t> tokens) const override;
  /// <unk> alone: <eos> ends a line, not a document.
  SpecialTokens special_tokens() const override { return {{}, {}, {}, unk_}; }

 private:
  std::optional<int32_t> find(std::string_view word) const;
  int32_t id_of(std::string_view word) const;

  std::string name_;
  std::vector<std::string_view> words_;
  std::unordered_map<std::string_view, int32_t> ids_;
  std::optional<int32_t> unk_, eos_;
};

}  // namespace megalodon::data
