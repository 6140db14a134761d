// tokenizer.json files as tokenizers.
#pragma once

#include <optional>

#include "data/bpe.h"
#include "data/file_tokenizer.h"
#include "data/scratch_pool.h"
#include "data/sentencepiece_normalizer.h"
#include "data/tokenizer_json.h"
#include "data/trie.h"
#include "data/word_splitter.h"

namespace megalodon::data {

/// Ids are those of Hugging Face's library, without the special tokens it puts around a text. Where a text spells out a
/// special token, the library makes the token of it; here it is text, as in SentencePiece, so that no document can end
/// itself. Added tokens that are not special are found as the library finds them.
class JsonTokenizer final : public FileTokenizer {
 public:
  static constexpr const char* kFile = "tokenizer.json";

  /// From the content of a file; `name` is for messages. Throws Error as parse_tokenizer_json() does.
  JsonTokenizer(std::string bytes, std::string_view name, TokenizerConfig config = {});

  int64_t vocabulary() const override { return static_cast<int64_t>(tokens_.size()); }
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(int32_t token) const override;
  std::string decode_text(std::span<const int32_t> tokens) const override;
  SpecialTokens special_tokens() const override { return special_; }

 private:
  struct Scratch {
    Bpe::Scratch bpe;
    WordSplitter::Scratch splitter;
  };

  const TokenizerJson::Token& token_at(int32_t token) const;
  std::optional<int32_t> find(const std::optional<std::string>& configured,
                              const std::vector<std::string>& usual) const;
  void find_special(const std::string& unknown);
  void encode_section(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;

  std::vector<TokenizerJson::Token> tokens_;
  bool byte_level_ = false, prefix_space_ = false, strip_space_ = false;
  SpecialTokens special_;
  Trie added_;                                         // tokens that are cut out of the text as it stands
  std::optional<SentencePieceNormalizer> normalizer_;  // of the Llama-2 kind
  std::optional<WordSplitter> splitter_;               // of the GPT-2 kind
  Bpe bpe_;
  mutable ScratchPool<Scratch> scratch_;
};

}  // namespace megalodon::data
