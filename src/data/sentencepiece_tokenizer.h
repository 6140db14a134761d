// SentencePiece models as tokenizers; ids and decoded text are those of the library (0.1.97).
#pragma once

#include "data/bpe.h"
#include "data/file_tokenizer.h"
#include "data/scratch_pool.h"
#include "data/sentencepiece_model.h"
#include "data/sentencepiece_normalizer.h"
#include "data/unigram.h"

namespace megalodon::data {

class SentencePieceTokenizer final : public FileTokenizer {
 public:
  static constexpr const char* kFile = "tokenizer.model";

  /// From the content of a .model file; `name` is for messages. Throws Error as parse_sentencepiece_model() does.
  SentencePieceTokenizer(std::string bytes, std::string_view name, TokenizerConfig config = {});

  int64_t vocabulary() const override { return static_cast<int64_t>(model_.pieces.size()); }
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(int32_t token) const override;
  std::string decode_text(std::span<const int32_t> tokens) const override;
  SpecialTokens special_tokens() const override;

 private:
  struct Scratch {
    Bpe::Scratch bpe;
    Unigram::Scratch unigram;
  };

  const SentencePiece& piece(int32_t token) const;
  void encode_bpe(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;

  SentencePieceModel model_;
  SentencePieceNormalizer normalizer_;
  std::vector<std::string> texts_;  // the pieces with spaces for U+2581; empty where text never gives them
  Trie user_defined_;               // of BPE: they are cut out before the rest is merged
  Bpe bpe_;
  Unigram unigram_;
  mutable ScratchPool<Scratch> scratch_;
};

}  // namespace megalodon::data
