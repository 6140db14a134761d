// From records to tokens: the parallel stage of preparing a corpus, a pure function of a block.
#pragma once

#include <string>
#include <vector>

#include "data/document_hash.h"
#include "data/record_reader.h"
#include "data/token_files.h"
#include "data/tokenizer.h"

namespace megalodon::data {

/// A document, or a piece of one, in EncodedBlock::stored.
struct EncodedPiece {
  size_t bytes = 0;
  bool last = true;
  Hash128 hash;  // of the piece's text
};

struct EncodedBlock {
  std::string stored;  // tokens as TokenStore puts them
  std::vector<EncodedPiece> pieces;
  int64_t empty = 0;             // documents without text, left out
  std::vector<std::string> bad;  // "file:line: why", one for each record left out
  uint64_t text_bytes = 0, position = 0;
};

class DocumentEncoder {
 public:
  struct Options {
    std::string field = "text";  // of JSON lines
    size_t longest = 0;          // RecordReader's, for messages
    bool hash = false, prepend_bos = false, append_eos = false;
  };
  /// Throws UsageError where the tokenizer lacks a token that the options ask for.
  DocumentEncoder(Options options, const Tokenizer& tokenizer);
  EncodedBlock operator()(const Block& block) const;

 private:
  void encode(const Block& block, const Record& record, EncodedBlock& out) const;
  void put(std::string_view text, const Record& record, EncodedBlock& out) const;

  Options options_;
  const Tokenizer& tokenizer_;
  TokenStore store_;
};

}  // namespace megalodon::data
