#include "data/bpe.h"

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

constexpr int32_t kUnknown = -1, kMerged = -2;  // of symbols: no merge knows them
constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
constexpr size_t kCachedBytes = 64;  // longer words are seldom seen twice

uint64_t pair_key(uint32_t left, uint32_t right) {
  return uint64_t{left} << 32 | right;
}

/// For a heap that gives the lowest rank first, of equal ranks the leftmost pair.
bool comes_later(const Bpe::Scratch::Candidate& a, const Bpe::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.left > b.left;
}

}  // namespace

Bpe::Bpe(const BpeModel& model)
    : tokens_(model.tokens),
      unknown_(model.unknown),
      byte_level_(model.byte_level),
      fuse_unknown_(model.fuse_unknown),
      byte_fallback_(model.byte_fallback) {
  small_symbols_.fill(kUnknown);
  for (size_t i = 0; i < model.symbols.size(); ++i) {
    const std::string& text = model.symbols[i];
    if (text.empty()) continue;
    const Character first = character(text, 0);
    if (first.length < text.size()) continue;
    if (first.code < kSmall) {
      small_symbols_[first.code] = static_cast<int32_t>(i);
    } else {
      symbols_.emplace(first.code, static_cast<int32_t>(i));
    }
  }
  merges_.reserve(model.merges.size());
  for (const BpeModel::Merge& merge : model.merges) {
    merges_.emplace(pair_key(static_cast<uint32_t>(merge.left), static_cast<uint32_t>(merge.right)),
                    Target{merge.rank, merge.result});
    add_pairs(model.symbols[static_cast<size_t>(merge.result)]);
  }
}

/// Bytes that are no UTF-8 are characters of their own, beyond the last code point.
Bpe::Character Bpe::character(std::string_view text, size_t at) const {
  const auto byte = static_cast<unsigned char>(text[at]);
  if (byte < 0x80 || byte_level_) return {byte, 1};
  const Utf8Character found = first_character(text.substr(at));
  return {found.valid ? found.code : 0x110000 + byte, found.length};
}

void Bpe::add_pairs(std::string_view text) {
  Character left = character(text, 0);
  for (size_t at = left.length; at < text.size();) {
    const Character right = character(text, at);
    if (left.code < kSmall && right.code < kSmall) {
      small_pairs_.set(left.code * kSmall + right.code);
    } else {
      pairs_.insert(pair_key(left.code, right.code));
    }
    left = right;
    at += right.length;
  }
}

bool Bpe::joins(uint32_t left, uint32_t right) const {
  if (left < kSmall && right < kSmall) return small_pairs_[left * kSmall + right];
  return pairs_.contains(pair_key(left, right));
}

int32_t Bpe::symbol_of(uint32_t code) const {
  if (code < kSmall) return small_symbols_[code];
  const auto found = symbols_.find(code);
  return found == symbols_.end() ? kUnknown : found->second;
}

void Bpe::encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  if (text.empty()) return;
  check(text.size() < kNone, "[tokenizer] a text of {} bytes is too long; 4 GiB is the limit", text.size());
  size_t begin = 0;
  Character left = character(text, 0);
  for (size_t at = left.length; at < text.size();) {
    const Character right = character(text, at);
    if (!joins(left.code, right.code)) {
      encode_word(text.substr(begin, at - begin), scratch, out);
      begin = at;
    }
    left = right;
    at += right.length;
  }
  encode_word(text.substr(begin), scratch, out);
}

void Bpe::encode_word(std::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (word.size() > kCachedBytes) {
    merge(word, scratch);
    return append(scratch.tokens.data(), scratch.tokens.size(), out);
  }
  const WordCache::Place place = scratch.cache.find(word);
  if (place.found) return append(place.tokens.data(), place.tokens.size(), out);
  merge(word, scratch);
  scratch.cache.insert(word, scratch.tokens, place);
  append(scratch.tokens.data(), scratch.tokens.size(), out);
}

void Bpe::append(const int32_t* tokens, size_t count, std::vector<int32_t>& out) const {
  if (fuse_unknown_ && byte_fallback_.empty() && count > 0 && tokens[0] == unknown_ && !out.empty() &&
      out.back() == unknown_) {
    ++tokens;
    --count;
  }
  out.insert(out.end(), tokens, tokens + count);
}

void Bpe::split(std::string_view word, Scratch& scratch) const {
  scratch.symbols.clear();
  for (size_t at = 0; at < word.size();) {
    const Character next = character(word, at);
    const auto index = static_cast<uint32_t>(scratch.symbols.size());
    scratch.symbols.push_back(
        {symbol_of(next.code), static_cast<uint32_t>(at), index == 0 ? kNone : index - 1, index + 1});
    at += next.length;
  }
  scratch.symbols.back().next = kNone;
}

void Bpe::push_candidate(uint32_t left, uint32_t right, Scratch& scratch) const {
  if (left == kNone || right == kNone) return;
  const int32_t left_id = scratch.symbols[left].id, right_id = scratch.symbols[right].id;
  if (left_id < 0 || right_id < 0) return;
  const auto found = merges_.find(pair_key(static_cast<uint32_t>(left_id), static_cast<uint32_t>(right_id)));
  if (found == merges_.end()) return;
  scratch.heap.push_back({found->second.rank, left, right, left_id, right_id, found->second.result});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
}

/// Leaves the word's tokens in scratch.tokens.
void Bpe::merge(std::string_view word, Scratch& scratch) const {
  split(word, scratch);
  auto& symbols = scratch.symbols;
  scratch.heap.clear();
  for (uint32_t i = 1; i < symbols.size(); ++i) push_candidate(i - 1, i, scratch);
  while (!scratch.heap.empty()) {
    std::pop_heap(scratch.heap.begin(), scratch.heap.end(), comes_later);
    const Scratch::Candidate best = scratch.heap.back();
    scratch.heap.pop_back();
    Scratch::Symbol &left = symbols[best.left], &right = symbols[best.right];
    // One of the two has been merged with another neighbour in the meantime.
    if (left.id != best.left_id || right.id != best.right_id || left.next != best.right) continue;
    left.id = best.result;
    left.next = right.next;
    right.id = kMerged;
    if (left.next != kNone) symbols[left.next].previous = best.left;
    push_candidate(left.previous, best.left, scratch);
    push_candidate(best.left, left.next, scratch);
  }
  collect(word, scratch);
}

void Bpe::collect(std::string_view word, Scratch& scratch) const {
  scratch.tokens.clear();
  for (uint32_t at = 0; at != kNone; at = scratch.symbols[at].next) {
    const Scratch::Symbol& symbol = scratch.symbols[at];
    if (symbol.id >= 0 && symbol.id < tokens_) {
      scratch.tokens.push_back(symbol.id);
    } else if (!byte_fallback_.empty()) {
      const size_t end = symbol.next == kNone ? word.size() : scratch.symbols[symbol.next].begin;
      for (size_t i = symbol.begin; i < end; ++i)
        scratch.tokens.push_back(byte_fallback_[static_cast<unsigned char>(word[i])]);
    } else if (!fuse_unknown_ || scratch.tokens.empty() || scratch.tokens.back() != unknown_) {
      scratch.tokens.push_back(unknown_);
    }
  }
}

}  // namespace megalodon::data
