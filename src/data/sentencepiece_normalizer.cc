#include "data/sentencepiece_normalizer.h"

#include <cstring>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

constexpr size_t kMaxReplacementBytes = 256;  // Unicode's longest takes 33

uint32_t trie_bytes(std::string_view charsmap) {
  uint32_t size = 0;
  std::memcpy(&size, charsmap.data(), sizeof(size));
  return size;
}

}  // namespace

std::string charsmap_problem(std::string_view charsmap) {
  if (charsmap.empty()) return {};
  if (charsmap.size() < sizeof(uint32_t)) return fmt::format("expected 4 bytes or more, got {}", charsmap.size());
  const uint32_t trie = trie_bytes(charsmap);
  const size_t rest = charsmap.size() - sizeof(uint32_t);
  if (trie == 0 || trie % sizeof(uint32_t) != 0 || trie > rest)
    return fmt::format("expected a trie of whole units within the {} bytes that follow, got {} bytes", rest, trie);
  if (trie == rest || charsmap.back() != '\0') return "the last replacement must end with a zero byte";
  // One character of a text becomes one of these, so they bound how much longer text can get.
  for (size_t begin = sizeof(uint32_t) + trie; begin < charsmap.size();) {
    const size_t end = charsmap.find('\0', begin);
    if (end - begin > kMaxReplacementBytes)
      return fmt::format("expected replacements of at most {} bytes, got {}", kMaxReplacementBytes, end - begin);
    begin = end + 1;
  }
  return {};
}

std::string unmark_spaces(std::string_view text) {
  std::string out;
  for (size_t found = text.find(kMarkedSpace); found != std::string_view::npos; found = text.find(kMarkedSpace)) {
    out += text.substr(0, found);
    out += ' ';
    text.remove_prefix(found + kMarkedSpace.size());
  }
  out += text;
  return out;
}

SentencePieceNormalizer::SentencePieceNormalizer(const SentencePieceModel& model)
    : dummy_prefix_(model.add_dummy_prefix),
      remove_extra_(model.remove_extra_whitespaces),
      suffix_(model.whitespace_as_suffix) {
  std::vector<std::pair<std::string_view, int32_t>> user_defined;
  for (size_t id = 0; id < model.pieces.size(); ++id)
    if (model.pieces[id].type == SentencePiece::kUserDefined)
      user_defined.emplace_back(model.pieces[id].text, static_cast<int32_t>(id));
  user_defined_ = Trie(std::move(user_defined));
  if (model.charsmap.empty()) return;
  units_.resize(trie_bytes(model.charsmap) / sizeof(uint32_t));
  std::memcpy(units_.data(), model.charsmap.data() + sizeof(uint32_t), units_.size() * sizeof(uint32_t));
  replacements_ = model.charsmap.substr(sizeof(uint32_t) + units_.size() * sizeof(uint32_t));
}

/// The longest text that a rule replaces; length 0 where there is none. A place beyond the array ends the search.
SentencePieceNormalizer::Part SentencePieceNormalizer::longest_rule(std::string_view text) const {
  const auto children = [](uint32_t unit) -> size_t { return unit >> 10 << ((unit & 0x200u) >> 6); };
  Part longest{{}, 0};
  if (units_.empty()) return longest;
  size_t place = children(units_[0]);
  for (size_t i = 0; i < text.size(); ++i) {
    const auto label = static_cast<unsigned char>(text[i]);
    place ^= label;
    if (place >= units_.size()) break;
    const uint32_t unit = units_[place];
    if ((unit & 0x800000FFu) != label) break;
    place ^= children(unit);
    if ((unit & 0x100u) == 0) continue;
    if (place >= units_.size()) break;
    const size_t value = units_[place] & 0x7FFFFFFFu;
    if (value >= replacements_.size()) break;
    longest = {replacements_.c_str() + value, i + 1};
  }
  return longest;
}

SentencePieceNormalizer::Part SentencePieceNormalizer::first_part(std::string_view text) const {
  const size_t user_defined = user_defined_.longest(text).length;
  if (user_defined > 0) return {text.substr(0, user_defined), user_defined};
  const Part rule = longest_rule(text);
  if (rule.length > 0) return rule;
  const Utf8Character character = first_character(text);
  return {character.valid ? text.substr(0, character.length) : kReplacementCharacter, character.length};
}

/// Without rules nothing but spaces and ill-formed bytes changes, so stretches of ASCII are copied whole.
std::string SentencePieceNormalizer::replace_only(std::string_view text) const {
  std::string out;
  out.reserve(text.size() + text.size() / 64 + 2);
  if (dummy_prefix_ && !suffix_) out += ' ';
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && static_cast<unsigned char>(text[end]) < 0x80) ++end;
    out += text.substr(at, end - at);
    if (end == text.size()) break;
    const Utf8Character character = first_character(text.substr(end));
    if (!character.valid) {
      out += kReplacementCharacter;
    } else if (character.code == 0x2581) {
      out += ' ';
    } else {
      out += text.substr(end, character.length);
    }
    at = end + character.length;
  }
  if (dummy_prefix_ && suffix_) out += ' ';
  return out;
}

std::string SentencePieceNormalizer::with_rules(std::string_view text) const {
  std::string out;
  out.reserve(text.size() + 2);
  if (remove_extra_) {
    for (Part part; !text.empty() && (part = first_part(text)).text == " ";) text.remove_prefix(part.length);
    if (text.empty()) return out;
  }
  if (dummy_prefix_ && !suffix_) out += ' ';
  bool after_space = remove_extra_;
  while (!text.empty()) {
    Part part = first_part(text);
    text.remove_prefix(part.length);
    while (after_space && part.text.starts_with(' ')) part.text.remove_prefix(1);
    if (part.text.empty()) continue;
    out += unmark_spaces(part.text);
    // A space is one of the input or of a rule: U+2581 stays, however many there are.
    after_space = remove_extra_ && part.text.ends_with(' ');
  }
  while (remove_extra_ && out.ends_with(' ')) out.pop_back();
  if (dummy_prefix_ && suffix_) out += ' ';
  return out;
}

std::string SentencePieceNormalizer::normalize(std::string_view text) const {
  if (text.empty()) return {};
  return units_.empty() && !remove_extra_ ? replace_only(text) : with_rules(text);
}

}  // namespace megalodon::data
