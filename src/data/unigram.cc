#include "data/unigram.h"

#include <algorithm>
#include <cfloat>
#include <limits>

#include "base/check.h"

namespace megalodon::data {
namespace {

constexpr float kUnknownPenalty = 10;  // below the lowest score

/// By the first byte alone, as SentencePiece steps through text that its rules may have made ill-formed.
size_t character_length(std::string_view text) {
  const auto byte = static_cast<unsigned char>(text[0]);
  const size_t length = byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
  return std::min(length, text.size());
}

}  // namespace

Unigram::Unigram(const SentencePieceModel& model, const std::vector<std::string>& texts)
    : unknown_(model.unknown), byte_tokens_(model.byte_tokens) {
  float lowest = FLT_MAX, highest = FLT_MIN;  // sic: no score below zero is the highest
  for (const SentencePiece& piece : model.pieces) {
    if (piece.type != SentencePiece::kNormal) continue;
    lowest = std::min(lowest, piece.score);
    highest = std::max(highest, piece.score);
  }
  unknown_score_ = lowest - kUnknownPenalty;
  std::vector<std::pair<std::string_view, int32_t>> usable;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePiece& piece = model.pieces[id];
    // User-defined pieces cost next to nothing, so that they are always taken.
    const bool user_defined = piece.type == SentencePiece::kUserDefined;
    scores_.push_back(user_defined ? static_cast<float>(piece.text.size()) * highest - 0.1 : piece.score);
    if (!texts[id].empty() && (user_defined || piece.type == SentencePiece::kNormal))
      usable.emplace_back(texts[id], static_cast<int32_t>(id));
  }
  trie_ = Trie(std::move(usable));
}

void Unigram::find_best(std::string_view text, Scratch& scratch) const {
  scratch.ends.assign(text.size() + 1, {});
  for (size_t begin = 0; begin < text.size();) {
    const std::string_view rest = text.substr(begin);
    const size_t character = character_length(rest);
    const float before = scratch.ends[begin].score;
    const auto offer = [&](size_t length, int32_t token, double score) {
      Scratch::Best& end = scratch.ends[begin + length];
      if (end.reached && score <= end.score) return;
      end = {static_cast<float>(score), token, static_cast<uint32_t>(begin), true};
    };
    bool known = false;
    trie_.prefixes(rest, [&](size_t length, int32_t token) {
      offer(length, token, scores_[static_cast<size_t>(token)] + before);
      known = known || length == character;
    });
    if (!known) offer(character, unknown_, unknown_score_ + before);
    begin += character;
  }
}

void Unigram::encode(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  if (text.empty()) return;
  check(text.size() < std::numeric_limits<uint32_t>::max(),
        "[tokenizer] a text of {} bytes is too long; 4 GiB is the "
        "limit",
        text.size());
  find_best(text, scratch);
  scratch.path.clear();
  for (size_t end = text.size(); end > 0; end = scratch.ends[end].begin)
    scratch.path.push_back(static_cast<uint32_t>(end));
  bool after_unknown = false;
  for (auto end = scratch.path.rbegin(); end != scratch.path.rend(); ++end) {
    const Scratch::Best& piece = scratch.ends[*end];
    const bool is_unknown = piece.token == unknown_;
    if (is_unknown && !byte_tokens_.empty()) {
      for (const char c : text.substr(piece.begin, *end - piece.begin))
        out.push_back(byte_tokens_[static_cast<unsigned char>(c)]);
    } else if (!is_unknown || !after_unknown) {
      out.push_back(piece.token);
    }
    after_unknown = is_unknown;
  }
}

}  // namespace megalodon::data
