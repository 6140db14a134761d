#include "data/word_tokenizer.h"

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

/// Why a line of the file is no word; "" where it is one.
std::string fault_of(std::string_view word) {
  if (word.empty()) return "expected a word, got an empty line";
  if (word.size() > kMaxWordBytes) return fmt::format("expected at most {} bytes, got {}", kMaxWordBytes, word.size());
  if (std::any_of(word.begin(), word.end(), is_white_space))
    return fmt::format("expected a word without white space, got '{}'", printable(word));
  return "";
}

}  // namespace

WordTokenizer::WordTokenizer(std::string bytes, std::string_view name, TokenizerConfig config)
    : FileTokenizer("words", kFile, std::move(bytes), std::move(config)), name_(name) {
  for (std::string_view rest = this->bytes(); !rest.empty();) {
    const std::string_view word = rest.substr(0, rest.find('\n'));
    rest.remove_prefix(std::min(word.size() + 1, rest.size()));
    const auto refuse = [&](const std::string& fault) {
      fail("[tokenizer] '{}', line {}: {}", name, words_.size() + 1, fault);
    };
    if (const std::string fault = fault_of(word); !fault.empty()) refuse(fault);
    if (words_.size() == kMaxWords) refuse(fmt::format("expected at most {} words", kMaxWords));
    const auto [earlier, is_new] = ids_.emplace(word, static_cast<int32_t>(words_.size()));
    if (!is_new) refuse(fmt::format("'{}' stands on line {} already", printable(word), earlier->second + 1));
    words_.push_back(word);
  }
  check(!words_.empty(), "[tokenizer] '{}' has no words", name);
  unk_ = find(kUnknownWord);
  eos_ = find(kLineEnd);
}

std::optional<int32_t> WordTokenizer::find(std::string_view word) const {
  const auto found = ids_.find(word);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

int32_t WordTokenizer::id_of(std::string_view word) const {
  const auto id = find(word);
  check(id || unk_, "[tokenizer] '{}' lists neither the word '{}' nor {}", name_, printable(word), kUnknownWord);
  return id ? *id : *unk_;
}

std::vector<int32_t> WordTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens;
  for (auto at = text.begin(); at != text.end();) {
    const auto end = std::find_if(at, text.end(), is_white_space);
    if (end != at) tokens.push_back(id_of({at, end}));
    if (end == text.end()) break;
    if (*end == '\n' && eos_) tokens.push_back(*eos_);
    at = end + 1;
  }
  return tokens;
}

std::string WordTokenizer::decode(int32_t token) const {
  check_token(token);
  if (token == eos_) return "\n";
  std::string text = " ";
  text += words_[static_cast<size_t>(token)];
  return text;
}

std::string WordTokenizer::decode_text(std::span<const int32_t> tokens) const {
  std::string text;
  for (const int32_t token : tokens) {
    const bool at_line_start = text.empty() || text.back() == '\n';
    const std::string part = decode(token);
    text += at_line_start && token != eos_ ? part.substr(1) : part;
  }
  return text;
}

}  // namespace megalodon::data
