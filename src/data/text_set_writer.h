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

/// Counts the words of those examples of a set that will be train's: not of what is held out, also where it is drawn
/// from train's inputs, and not of what is left out.
class TrainWordCounter {
 public:
  explicit TrainWordCounter(const ExampleSetOptions& set) : places_(set) {}

  /// The examples of train's inputs, in their order.
  void add(std::string_view label, std::span<const std::string> texts);
  const WordCounter& words() const { return words_; }

 private:
  ExamplePlaces places_;
  WordCounter words_;
};

class TextSetWriter {
 public:
  /// The tokenizer that is not there before the texts are: that of the words of train's.
  static constexpr std::string_view kWords = "words";

  /// `tokenizer` as TextExamples has it; of kWords `words` are those counted.
  TextSetWriter(const ExampleSetOptions& set, const std::string& tokenizer, const WordCounter& words);

  /// An example, as ExampleSetWriter::add() takes it.
  void add(size_t part, std::string_view label, std::span<const std::string> texts);
  const ExampleSetWriter& examples() const { return examples_; }
  /// As ExampleSetWriter::finish() does; the words are listed in its words_path().
  ExampleSetResult finish();

 private:
  bool lists_words_;
  std::unique_ptr<Tokenizer> tokenizer_;
  TokenStore store_;
  ExampleSetWriter examples_;
  std::vector<std::string> stored_;  // of one example
};

}  // namespace megalodon::data
