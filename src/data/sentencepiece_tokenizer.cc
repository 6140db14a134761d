#include "data/sentencepiece_tokenizer.h"

#include <algorithm>
#include <unordered_map>

#include "base/utf8.h"

namespace megalodon::data {
namespace {

std::vector<std::string> texts_of(const SentencePieceModel& model) {
  std::vector<std::string> texts;
  for (const SentencePiece& piece : model.pieces) {
    const bool is_text = piece.type == SentencePiece::kNormal || piece.type == SentencePiece::kUserDefined;
    // Text has its spaces marked, so a piece with an unmarked one never matches.
    const bool matches = is_text && piece.text.find(' ') == std::string::npos;
    texts.push_back(matches ? unmark_spaces(piece.text) : std::string());
  }
  return texts;
}

/// The file gives scores, not merges: two neighbouring symbols may be merged where together they are a piece, and the
/// one with the highest score comes first. So every way to cut a piece into two symbols is a merge.
class BpeBuilder {
 public:
  BpeBuilder(const SentencePieceModel& model, const std::vector<std::string>& texts) : pieces_(model.pieces) {
    result_.symbols = texts;
    result_.tokens = static_cast<int32_t>(texts.size());
    result_.byte_fallback = model.byte_tokens;
    result_.unknown = model.unknown;
    for (size_t id = 0; id < texts.size(); ++id) {
      if (pieces_[id].type != SentencePiece::kNormal) result_.symbols[id].clear();
      if (!result_.symbols[id].empty()) ids_.emplace(texts[id], static_cast<int32_t>(id));
    }
  }

  BpeModel build() {
    rank_scores();
    for (int32_t id = 0; id < result_.tokens; ++id) add_merges(id);
    return std::move(result_);
  }

 private:
  void rank_scores() {
    for (const SentencePiece& piece : pieces_) scores_.push_back(piece.score);
    std::sort(scores_.begin(), scores_.end(), std::greater());
    scores_.erase(std::unique(scores_.begin(), scores_.end()), scores_.end());
  }

  void add_merges(int32_t id) {
    const std::string text = result_.symbols[static_cast<size_t>(id)];  // a copy: symbols grow
    if (text.empty()) return;
    const float score = pieces_[static_cast<size_t>(id)].score;
    const auto rank = static_cast<uint32_t>(std::lower_bound(scores_.begin(), scores_.end(), score, std::greater()) -
                                            scores_.begin());
    for (size_t at = first_character(text).length; at < text.size();
         at += first_character(std::string_view(text).substr(at)).length) {
      const int32_t left = symbol(std::string_view(text).substr(0, at));
      const int32_t right = symbol(std::string_view(text).substr(at));
      if (left >= 0 && right >= 0) result_.merges.push_back({left, right, id, rank});
    }
  }

  /// -1 for what is neither a piece nor a character.
  int32_t symbol(std::string_view text) {
    const auto found = ids_.find(std::string(text));
    if (found != ids_.end()) return found->second;
    if (first_character(text).length < text.size()) return -1;
    const auto id = static_cast<int32_t>(result_.symbols.size());
    result_.symbols.emplace_back(text);
    ids_.emplace(text, id);
    return id;
  }

  const std::vector<SentencePiece>& pieces_;
  BpeModel result_;
  std::unordered_map<std::string, int32_t> ids_;
  std::vector<float> scores_;  // each once, highest first: places are ranks
};

Trie user_defined_of(const SentencePieceModel& model, const std::vector<std::string>& texts) {
  std::vector<std::pair<std::string_view, int32_t>> found;
  for (size_t id = 0; id < texts.size(); ++id)
    if (model.pieces[id].type == SentencePiece::kUserDefined) found.emplace_back(texts[id], static_cast<int32_t>(id));
  return Trie(std::move(found));
}

/// Appends bytes that tokens spelled; each that begins no character becomes U+FFFD.
void append_spelled(std::string_view bytes, std::string& out) {
  while (!bytes.empty()) {
    const Utf8Character character = first_character(bytes);
    out += character.valid ? bytes.substr(0, character.length) : kReplacementCharacter;
    bytes.remove_prefix(character.length);
  }
}

}  // namespace

SentencePieceTokenizer::SentencePieceTokenizer(std::string bytes, std::string_view name, TokenizerConfig config)
    : FileTokenizer("sentencepiece", kFile, std::move(bytes), std::move(config)),
      model_(parse_sentencepiece_model(this->bytes(), name)),
      normalizer_(model_),
      texts_(texts_of(model_)) {
  if (model_.kind == SentencePieceModel::kBpe) {
    user_defined_ = user_defined_of(model_, texts_);
    bpe_ = Bpe(BpeBuilder(model_, texts_).build());
  } else {
    unigram_ = Unigram(model_, texts_);
  }
}

std::vector<int32_t> SentencePieceTokenizer::encode(std::string_view text) const {
  const ScratchPool<Scratch>::Lease scratch(scratch_);
  const std::string normalized = normalizer_.normalize(text);
  std::vector<int32_t> out;
  out.reserve(normalized.size() / 3);
  if (model_.kind == SentencePieceModel::kBpe) {
    encode_bpe(normalized, *scratch, out);
  } else {
    unigram_.encode(normalized, (*scratch).unigram, out);
  }
  return out;
}

void SentencePieceTokenizer::encode_bpe(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) const {
  if (user_defined_.empty()) return bpe_.encode(text, scratch.bpe, out);
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Trie::Match match = user_defined_.longest(text.substr(at));
    if (match.length > 0) {
      bpe_.encode(text.substr(begin, at - begin), scratch.bpe, out);
      out.push_back(match.value);
      begin = at + match.length;
    }
    at += match.length > 0 ? match.length : first_character(text.substr(at)).length;
  }
  bpe_.encode(text.substr(begin), scratch.bpe, out);
}

const SentencePiece& SentencePieceTokenizer::piece(int32_t token) const {
  check_token(token);
  return model_.pieces[static_cast<size_t>(token)];
}

std::string SentencePieceTokenizer::decode(int32_t token) const {
  const SentencePiece& found = piece(token);
  switch (found.type) {
    case SentencePiece::kControl:
      return {};
    case SentencePiece::kUnknown:
      return model_.unknown_surface;
    case SentencePiece::kByte:
      return {static_cast<char>(byte_of_piece(found.text))};
    default:
      return unmark_spaces(found.text);
  }
}

std::string SentencePieceTokenizer::decode_text(std::span<const int32_t> tokens) const {
  const bool strips = model_.add_dummy_prefix || model_.remove_extra_whitespaces;
  std::string text, spelled;
  bool at_begin = true, stripped = false;
  for (const int32_t token : tokens) {
    const SentencePiece::Type type = piece(token).type;
    std::string part = decode(token);
    if (type == SentencePiece::kByte) {
      spelled += part;
      continue;
    }
    append_spelled(spelled, text);
    spelled.clear();
    // The space before the text is not of the text; with extra spaces removed, no leading one is.
    if (stripped || !text.empty()) at_begin = false;
    stripped = false;
    if (at_begin && strips && type != SentencePiece::kUnknown && part.starts_with(' ')) {
      part.erase(0, 1);
      stripped = !model_.remove_extra_whitespaces;
    }
    text += part;
  }
  append_spelled(spelled, text);
  return text;
}

SpecialTokens SentencePieceTokenizer::special_tokens() const {
  const auto some = [](int32_t id) { return id >= 0 ? std::optional(id) : std::nullopt; };
  return {some(model_.bos), some(model_.eos), some(model_.pad), some(model_.unknown)};
}

}  // namespace megalodon::data
