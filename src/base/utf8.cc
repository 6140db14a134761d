#include "base/utf8.h"

#include <fmt/format.h>

#include <cstddef>
#include <utility>

namespace megalodon {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

enum class Kind { kCharacter, kIllFormed, kIncomplete };

/// The longest beginning of a character, and whether it is one.
struct Part {
  size_t length;
  Kind kind;
};

/// Unicode 15, table 3-7: how many bytes follow a first byte, and what the second may be. That range is what keeps out
/// overlong forms (E0, F0), surrogates (ED) and code points above U+10FFFF (F4).
struct Rule {
  int following;
  unsigned char low, high;
};

Rule rule_of(unsigned char first) {
  if (first < 0x80) return {0, 0, 0};
  if (first < 0xC2 || first > 0xF4) return {-1, 0, 0};
  if (first < 0xE0) return {1, 0x80, 0xBF};
  if (first < 0xF0) {
    return {2, static_cast<unsigned char>(first == 0xE0 ? 0xA0 : 0x80),
            static_cast<unsigned char>(first == 0xED ? 0x9F : 0xBF)};
  }
  return {3, static_cast<unsigned char>(first == 0xF0 ? 0x90 : 0x80),
          static_cast<unsigned char>(first == 0xF4 ? 0x8F : 0xBF)};
}

Part first_part(std::string_view text) {
  Rule rule = rule_of(static_cast<unsigned char>(text[0]));
  if (rule.following < 0) return {1, Kind::kIllFormed};
  size_t length = 1;
  for (; rule.following > 0; --rule.following, ++length) {
    if (length == text.size()) return {length, Kind::kIncomplete};
    const auto byte = static_cast<unsigned char>(text[length]);
    if (byte < rule.low || byte > rule.high) return {length, Kind::kIllFormed};
    rule.low = 0x80;
    rule.high = 0xBF;
  }
  return {length, Kind::kCharacter};
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  std::string text = std::move(pending_);
  text += bytes;
  pending_.clear();
  std::string out;
  out.reserve(text.size());
  for (std::string_view rest = text; !rest.empty();) {
    const Part part = first_part(rest);
    if (part.kind == Kind::kIncomplete) {
      pending_ = rest;
      break;
    }
    out += part.kind == Kind::kCharacter ? rest.substr(0, part.length) : kReplacement;
    rest.remove_prefix(part.length);
  }
  return out;
}

std::string Utf8Stream::finish() {
  const bool held_back = !pending_.empty();
  pending_.clear();
  return held_back ? std::string(kReplacement) : std::string();
}

Utf8Character first_character(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i])); };
  const Part part = first_part(text);
  if (part.kind != Kind::kCharacter) return {byte(0), 1, false};
  if (part.length == 1) return {byte(0), 1, true};
  uint32_t code = byte(0) & (0x7Fu >> part.length);
  for (size_t i = 1; i < part.length; ++i) code = code << 6 | (byte(i) & 0x3F);
  return {code, part.length, true};
}

bool is_valid_utf8(std::string_view text) {
  while (!text.empty()) {
    const Part part = first_part(text);
    if (part.kind != Kind::kCharacter) return false;
    text.remove_prefix(part.length);
  }
  return true;
}

namespace {

std::string escaped(unsigned char control) {
  switch (control) {
    case '\n':
      return "\\n";
    case '\r':
      return "\\r";
    case '\t':
      return "\\t";
    default:
      return fmt::format("\\x{:02X}", control);
  }
}

}  // namespace

std::string printable(std::string_view text, size_t most) {
  std::string out;
  Utf8Stream stream;
  for (const char c : text.substr(0, most)) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7F ? stream.finish() + escaped(byte) : stream.push({&c, 1});
  }
  // A character that is cut in the middle is left out, not shown as damage.
  if (text.size() > most) return out + "…";
  return out + stream.finish();
}

}  // namespace megalodon
