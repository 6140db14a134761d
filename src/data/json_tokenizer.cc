#include "data/json_tokenizer.h"

#include "base/utf8.h"
#include "data/sentencepiece_model.h"

namespace megalodon::data {
namespace {

/// Prepend and Replace do what SentencePiece does with this model.
SentencePieceModel normalizer_model(bool prefix_space) {
  SentencePieceModel model;
  model.add_dummy_prefix = prefix_space;
  model.remove_extra_whitespaces = false;
  return model;
}

/// The decoder's ByteFallback: a run of bytes that is not UTF-8 becomes U+FFFD, one for each byte.
void append_or_replace(const std::string& bytes, std::string& out) {
  if (is_valid_utf8(bytes)) {
    out += bytes;
  } else {
    for (size_t i = 0; i < bytes.size(); ++i) out += kReplacementCharacter;
  }
}

}  // namespace

JsonTokenizer::JsonTokenizer(std::string bytes, std::string_view name, TokenizerConfig config)
    : FileTokenizer("tokenizer_json", kFile, std::move(bytes), std::move(config)) {
  TokenizerJson parsed = parse_tokenizer_json(this->bytes(), name);
  tokens_ = std::move(parsed.tokens);
  byte_level_ = parsed.byte_level;
  prefix_space_ = parsed.prefix_space;
  strip_space_ = parsed.strip_space;
  if (byte_level_) {
    splitter_.emplace();
  } else {
    normalizer_.emplace(normalizer_model(prefix_space_));
  }
  bpe_ = Bpe(parsed.bpe);
  std::vector<std::pair<std::string_view, int32_t>> added;
  for (size_t id = 0; id < tokens_.size(); ++id)
    if (tokens_[id].added && !tokens_[id].special) added.emplace_back(tokens_[id].name, static_cast<int32_t>(id));
  added_ = Trie(std::move(added));
  find_special(parsed.unknown);
}

std::optional<int32_t> JsonTokenizer::find(const std::optional<std::string>& configured,
                                           const std::vector<std::string>& usual) const {
  for (const std::string& name : configured ? std::vector{*configured} : usual)
    for (size_t id = 0; id < tokens_.size(); ++id)
      if (tokens_[id].name == name && (configured || tokens_[id].special)) return static_cast<int32_t>(id);
  return std::nullopt;
}

/// tokenizer.json does not say which special token is which: tokenizer_config.json does, or else their usual names.
void JsonTokenizer::find_special(const std::string& unknown) {
  special_.bos = find(config().bos, {"<s>", "<|endoftext|>"});
  special_.eos = find(config().eos, {"</s>", "<|endoftext|>"});
  special_.pad = find(config().pad, {"<pad>"});
  special_.unk = find(unknown.empty() ? config().unk : unknown, {"<unk>"});
}

std::vector<int32_t> JsonTokenizer::encode(std::string_view text) const {
  const ScratchPool<Scratch>::Lease scratch(scratch_);
  std::vector<int32_t> out;
  out.reserve(text.size() / 3);
  size_t begin = 0;
  for (size_t at = 0; !added_.empty() && at < text.size();) {
    const Trie::Match match = added_.longest(text.substr(at));
    if (match.length > 0) {
      encode_section(text.substr(begin, at - begin), *scratch, out);
      out.push_back(match.value);
      begin = at + match.length;
    }
    at += std::max<size_t>(match.length, 1);
  }
  encode_section(text.substr(begin), *scratch, out);
  return out;
}

void JsonTokenizer::encode_section(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  if (text.empty()) return;
  if (normalizer_) return bpe_.encode(normalizer_->normalize(text), scratch.bpe, out);
  const auto encode_word = [&](std::string_view word) { bpe_.encode(word, scratch.bpe, out); };
  if (prefix_space_ && text[0] != ' ') {
    std::string prefixed = " ";
    prefixed += text;
    splitter_->split(prefixed, scratch.splitter, encode_word);
  } else {
    splitter_->split(text, scratch.splitter, encode_word);
  }
}

const TokenizerJson::Token& JsonTokenizer::token_at(int32_t token) const {
  check_token(token);
  return tokens_[static_cast<size_t>(token)];
}

std::string JsonTokenizer::decode(int32_t token) const {
  const TokenizerJson::Token& found = token_at(token);
  return found.special ? std::string() : found.text;
}

std::string JsonTokenizer::decode_text(std::span<const int32_t> tokens) const {
  std::string text, spelled;
  for (const int32_t token : tokens) {
    const std::string part = decode(token);
    if (part.empty()) continue;
    if (byte_level_ || byte_of_piece(token_at(token).name) >= 0) {
      spelled += part;
      continue;
    }
    append_or_replace(spelled, text);
    spelled.clear();
    text += part;
  }
  if (byte_level_) {
    Utf8Stream utf8;
    text = utf8.push(spelled);
    return text + utf8.finish();
  }
  append_or_replace(spelled, text);
  if (strip_space_ && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

}  // namespace megalodon::data
