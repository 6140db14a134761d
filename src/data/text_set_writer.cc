#include "data/text_set_writer.h"

#include <algorithm>
#include <optional>

#include "data/word_tokenizer.h"

namespace megalodon::data {
namespace {

std::unique_ptr<Tokenizer> word_tokenizer(const WordCounter& words) {
  return std::make_unique<WordTokenizer>(words.list({.unknown = true}).file, WordTokenizer::kFile);
}

/// Whether a WordTokenizer without <eos> makes no token of the text.
bool has_no_word(const std::string& text) {
  return std::all_of(text.begin(), text.end(), is_white_space);
}

}  // namespace

void TrainWordCounter::add(std::string_view label, std::span<const std::string> texts) {
  // What ExampleSetWriter leaves out takes no number in the draw.
  if (std::any_of(texts.begin(), texts.end(), has_no_word) || !places_.class_of(label)) return;
  if (places_.part_of(0) != 0) return;
  for (const std::string& text : texts) words_.add(text, /*is_last=*/true);
}

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
  std::optional<AtomicFile> words;
  if (lists_words_) {
    words.emplace(examples_.words_path());
    words->write(tokenizer_->files().front().second);
    words->seal();
  }
  ExampleSetResult result = examples_.finish();
  if (words) words->publish();  // it replaces an older set's only where this one has appeared
  return result;
}

}  // namespace megalodon::data
