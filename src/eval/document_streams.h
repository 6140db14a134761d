// Documents of a token file as streams that a model scores, a stretch at a time.
#pragma once

#include "data/token_files.h"
#include "data/tokenizer.h"
#include "infer/score.h"

namespace megalodon {

class DocumentStreams {
 public:
  /// The tokenizer of the file and of the model.
  DocumentStreams(const data::TokenFile& file, const data::Tokenizer& tokenizer);

  /// Documents are read between the tokenizer's BOS and EOS, of which those are added that the file's documents lack
  /// (where it is not known what they have, both).
  void add_marks();
  /// Tokens of the document, marks included.
  int64_t length(int64_t document) const;
  /// Steps [begin, begin + steps) of the documents, a row each: tokens, and the tokens that follow them as targets.
  /// Where a row has ended, its tokens are 0 and its targets are ignored. Throws Error for tokens that the tokenizer
  /// does not have.
  Stretch read(const std::vector<int64_t>& documents, int64_t begin, int64_t steps) const;

 private:
  void read_row(int64_t document, int64_t begin, std::span<int64_t> out) const;

  const data::TokenFile& file_;
  const data::Tokenizer& tokenizer_;
  data::SpecialTokens marks_;  // what is added; only bos and eos are read
};

}  // namespace megalodon
