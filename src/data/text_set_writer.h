// Sets of labelled texts on their way to disk: example_set.h behind a tokenizer.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/example_set.h"
#include "data/token_files.h"
#include "data/tokenizer.h"
#include "data/word_list.h"

namespace megalodon::data {

class TextSetWriter {
 public:
  /// The tokenizer that is not there before the texts are: that of the words of train's.
  static constexpr std::string_view kWords = "words";

  /// `tokenizer` as TextExamples has it; of kWords `words` are those counted.
  TextSetWriter(const ExampleSetOptions& set, const std::string& tokenizer, const WordCounter& words);

  /// An example, as ExampleSetWriter::add() takes it.
  void add(size_t part, std::string_view label, std::span<const std::string> texts);
  const ExampleSetWriter& examples() const { return examples_; }
  /// As ExampleSetWriter::finish() does; the words are listed beside the set.
  ExampleSetResult finish();

 private:
  bool lists_words_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenStore store_;
  ExampleSetWriter examples_;
  std::vector<std::string> stored_;  // of one example
};

}  // namespace megalodon::data
