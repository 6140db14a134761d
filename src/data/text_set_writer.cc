#include "data/text_set_writer.h"

#include "data/word_tokenizer.h"

namespace megalodon::data {
namespace {

std::unique_ptr<Tokenizer> word_tokenizer(const WordCounter& words) {
  return std::make_unique<WordTokenizer>(words.list({.unknown = true}).file, WordTokenizer::kFile);
}

}  // namespace

TextSetWriter::TextSetWriter(const ExampleSetOptions& set, const std::string& tokenizer, const WordCounter& words)
    : lists_words_(tokenizer == kWords),
      tokenizer_(lists_words_ ? word_tokenizer(words) : make_tokenizer(tokenizer)),
      store_(tokenizer_->vocabulary()),
      examples_(set, *tokenizer_) {}

void TextSetWriter::add(size_t part, std::string_view label, std::span<const std::string> texts) {
  stored_.resize(texts.size());
  for (size_t i = 0; i < texts.size(); ++i) {
    stored_[i].clear();
    store_.put(tokenizer_->encode(texts[i]), stored_[i]);
  }
  examples_.add(part, label, stored_);
}

ExampleSetResult TextSetWriter::finish() {
  if (lists_words_) tokenizer_->save(examples_.folder());
  return examples_.finish();
}

}  // namespace megalodon::data
