// The vocabulary of a words tokenizer, from texts.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/file.h"
#include "data/word_tokenizer.h"

namespace megalodon::data {

struct WordListOptions {
  std::vector<fs::path> inputs = {};       // as find_inputs() takes them
  std::string field = "text";              // of JSON lines
  size_t longest = size_t{64} << 20;       // bytes of a JSON line
  int64_t min_count = 1;                   // words that occur less often are left out
  int64_t max_words = 0;                   // listed in all, with <unk> and <eos>; 0: no limit
  bool unknown = false, line_end = false;  // whether <unk> and <eos> come first
  // What a tokenizer of the list opens at the most (tests lower it).
  size_t most_words = WordTokenizer::kMaxWords, most_bytes = FileTokenizer::kMaxBytes;
};

struct WordList {
  std::string file;      // a word a line: <unk>, <eos>, then by falling frequency, equal ones by their bytes
  int64_t listed = 0;    // its lines
  int64_t distinct = 0;  // words of the texts
  int64_t words = 0;     // occurrences of all of them
  int64_t left_out = 0;  // of those that are not listed
  int64_t line_ends = 0;
};

/// Counts the words of texts.
class WordCounter {
 public:
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view word) const { return std::hash<std::string_view>()(word); }
  };
  using Counts = std::unordered_map<std::string, int64_t, Hash, std::equal_to<>>;

  /// A piece of a text, or with `is_last` the end of one.
  void add(std::string_view piece, bool is_last);
  /// Those that the options ask for, whose inputs are not looked at. Words of more than kMaxWordBytes are never listed,
  /// nor is an <eos> of the texts that does not come first: line ends would become tokens. Throws Error where words are
  /// left out and <unk> is not listed to stand for them, and where a list is too long for a tokenizer or max_words for
  /// those that come first.
  WordList list(const WordListOptions& options) const;

 private:
  void end_word();

  Counts counts_;
  std::string word_;  // what no white space has ended yet
  int64_t too_long_ = 0, line_ends_ = 0;
};

/// Of the inputs. Throws Error for inputs that cannot be read, as data::prepare() does. `progress(done, total)` counts
/// bytes of the inputs.
WordList list_words(const WordListOptions& options, const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace megalodon::data
