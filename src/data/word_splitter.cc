#include "data/word_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

#define MEGALODON_SPACE R"(\x09-\x0d\x20\x85\xa0\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
constexpr std::string_view kPattern =
    R"('(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^)" MEGALODON_SPACE R"(\p{L}\p{N}]+|[)" MEGALODON_SPACE
    R"(]+(?![^)" MEGALODON_SPACE R"(])|[)" MEGALODON_SPACE R"(]+)";
#undef MEGALODON_SPACE

// A word of this pattern is found without backtracking to speak of; these are for what nobody thought of.
constexpr uint32_t kMatchLimit = 10'000'000, kHeapKiB = 256 << 10;

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

/// How much of the text is UTF-8 (or, with `valid` false, how much at its beginning is not).
size_t stretch(std::string_view text, bool valid) {
  size_t length = 0;
  while (length < text.size()) {
    const Utf8Character character = first_character(text.substr(length));
    if (character.valid != valid) break;
    length += character.length;
  }
  return length;
}

}  // namespace

WordSplitter::Scratch::Scratch()
    : match_data_(pcre2_match_data_create(1, nullptr),
                  [](void* data) { pcre2_match_data_free(static_cast<pcre2_match_data*>(data)); }) {}

WordSplitter::WordSplitter() {
  int error = 0;
  PCRE2_SIZE at = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern.data()), kPattern.size(),
                                   PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
  check(code != nullptr, "[tokenizer] PCRE2 refuses the pattern of words at {}: {}", at, message_of(error));
  code_ = std::shared_ptr<void>(code, [](void* c) { pcre2_code_free(static_cast<pcre2_code*>(c)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // only quicker: it may fail where memory must not be executable
  pcre2_match_context* limits = pcre2_match_context_create(nullptr);
  limits_ =
      std::shared_ptr<void>(limits, [](void* l) { pcre2_match_context_free(static_cast<pcre2_match_context*>(l)); });
  pcre2_set_match_limit(limits, kMatchLimit);
  pcre2_set_heap_limit(limits, kHeapKiB);
}

void WordSplitter::split(std::string_view text, Scratch& scratch,
                         const std::function<void(std::string_view)>& found) const {
  for (bool valid = true; !text.empty(); valid = !valid) {
    const size_t length = stretch(text, valid);
    if (valid) {
      split_valid(text.substr(0, length), scratch, found);
    } else {
      found(text.substr(0, length));
    }
    text.remove_prefix(length);
  }
}

void WordSplitter::split_valid(std::string_view text, Scratch& scratch,
                               const std::function<void(std::string_view)>& found) const {
  auto* data = static_cast<pcre2_match_data*>(scratch.match_data());
  for (size_t at = 0; at < text.size();) {
    const int matches =
        pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(),
                    at, PCRE2_NO_UTF_CHECK, data, static_cast<pcre2_match_context*>(limits_.get()));
    check(matches > 0, "[tokenizer] PCRE2 finds no word at byte {} of a text: {}", at, message_of(matches));
    const PCRE2_SIZE* span = pcre2_get_ovector_pointer(data);
    // Every character begins a word of some kind, so a match begins where the last one ended and is not empty.
    check(span[0] == at && span[1] > at, "[tokenizer] no word begins at byte {} of a text", at);
    found(text.substr(at, span[1] - at));
    at = span[1];
  }
}

}  // namespace megalodon::data
