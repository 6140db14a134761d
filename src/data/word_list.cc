#include "data/word_list.h"

#include <algorithm>

#include "base/check.h"
#include "data/document_hash.h"
#include "data/jsonl.h"
#include "data/record_reader.h"

namespace megalodon::data {
namespace {

void count_block(const Block& block, const WordListOptions& options, WordCounter& counter) {
  for (const Record& record : block.records) {
    const std::string_view text = std::string_view(block.text).substr(record.begin, record.size);
    if (block.layout == Layout::kJsonLines) {
      const JsonlText parsed = record.too_long ? JsonlText{"", fmt::format("longer than {} bytes", options.longest)}
                                               : parse_jsonl_line(text, options.field);
      check(parsed.error.empty(), "[data words] {}:{}: {}", *block.source, record.number, parsed.error);
      counter.add(parsed.text, /*is_last=*/true);
    } else {
      counter.add(text, record.last);
    }
  }
}

/// Those that may be listed, the most frequent first.
std::vector<std::pair<std::string_view, int64_t>> candidates(const WordCounter::Counts& counts,
                                                             const WordListOptions& options) {
  std::vector<std::pair<std::string_view, int64_t>> words;
  for (const auto& [word, count] : counts) {
    const bool special = word == kLineEnd || (options.unknown && word == kUnknownWord);
    if (!special && count >= options.min_count) words.emplace_back(word, count);
  }
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  return words;
}

void check_max_words(const WordListOptions& options) {
  const int64_t first = (options.unknown ? 1 : 0) + (options.line_end ? 1 : 0);
  if (options.max_words != 0 && options.max_words < first)
    fail_usage("[data words] --max-words must be {} at least, for {} and {}, got {}", first, kUnknownWord, kLineEnd,
               options.max_words);
}

}  // namespace

void WordCounter::add(std::string_view piece, bool is_last) {
  for (const char c : piece) {
    if (is_white_space(c)) {
      end_word();
      line_ends_ += c == '\n' ? 1 : 0;
    } else if (word_.size() <= kMaxWordBytes) {  // the rest of one that is too long is not kept
      word_ += c;
    }
  }
  if (is_last) end_word();
}

void WordCounter::end_word() {
  if (word_.size() > kMaxWordBytes) {
    ++too_long_;
  } else if (!word_.empty()) {
    ++counts_[word_];
  }
  word_.clear();
}

WordList WordCounter::list(const WordListOptions& options) const {
  check_max_words(options);
  WordList list;
  list.distinct = static_cast<int64_t>(counts_.size());
  list.line_ends = line_ends_;
  list.words = too_long_;
  for (const auto& [word, count] : counts_) list.words += count;
  bool has_unknown = options.unknown;
  int64_t occurrences = 0;  // of listed words
  const auto put = [&](std::string_view word) {
    list.file += fmt::format("{}\n", word);
    ++list.listed;
    check(static_cast<size_t>(list.listed) <= options.most_words && list.file.size() <= options.most_bytes,
          "[data words] expected a list of at most {} words and {} bytes, got more: lower --max-words or raise "
          "--min-count",
          options.most_words, options.most_bytes);
    has_unknown |= word == kUnknownWord;
    if (const auto found = counts_.find(word); found != counts_.end()) occurrences += found->second;
  };
  if (options.unknown) put(kUnknownWord);
  if (options.line_end) put(kLineEnd);
  for (const auto& [word, count] : candidates(counts_, options)) {
    if (options.max_words > 0 && list.listed >= options.max_words) break;
    put(word);
  }
  list.left_out = list.words - occurrences;
  check(list.listed > 0, "[data words] the texts have no words");
  const bool drops_line_ends = !options.line_end && counts_.contains(kLineEnd);
  check(list.left_out == 0 || has_unknown,
        "[data words] {} words of the texts are not listed, and {} is not there to stand for them: add --unk{}",
        list.left_out, kUnknownWord, drops_line_ends ? ", or --eos for the <eos> among them" : "");
  return list;
}

WordList list_words(const WordListOptions& options, const std::function<void(uint64_t, uint64_t)>& progress) {
  check_max_words(options);  // before all texts are read for nothing
  WordCounter counter;
  RecordReader reader(find_inputs(options.inputs), {"", options.longest, kPieceBytes});
  while (const auto block = reader.next()) {
    count_block(*block, options, counter);
    if (progress) progress(block->position, reader.total_bytes());
  }
  return counter.list(options);
}

}  // namespace megalodon::data
