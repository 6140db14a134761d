#include "data/tokenizer_json.h"

#include <array>
#include <limits>
#include <unordered_map>
#include <unordered_set>

#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"
#include "data/byte_spelling.h"
#include "data/sentencepiece_model.h"
#include "data/sentencepiece_normalizer.h"

namespace megalodon::data {
namespace {

class TokenizerJsonParser {
 public:
  TokenizerJsonParser(std::string_view text, std::string_view name) : name_(name), tree_(parse_json(text, name)) {}

  TokenizerJson parse() {
    require(tree_.is_object(), "expected a JSON object");
    allow_keys(tree_, "the file",
               {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                "decoder", "model"});
    for (const char* key : {"truncation", "padding"})
      require(at(tree_, key).is_null(), fmt::format("{} must be null: it would change ids", key));
    // post_processor only adds special tokens around the text, which encode() does not.
    model_ = at(tree_, "model");
    check_model();
    read_vocabulary();
    read_added_tokens();
    read_kind();
    read_texts();
    read_merges();
    return std::move(result_);
  }

 private:
  template <class Text>
  void require(bool ok, const Text& rule) const {
    if (!ok) fail("[tokenizer] '{}': {}", name_, rule);
  }

  /// The value of a key; null where it is missing.
  static const nlohmann::json& at(const nlohmann::json& tree, const char* key) {
    static const nlohmann::json kNull;
    const auto found = tree.find(key);
    return found == tree.end() ? kNull : *found;
  }

  void allow_keys(const nlohmann::json& tree, std::string_view where,
                  const std::unordered_set<std::string>& known) const {
    for (const auto& [key, value] : tree.items())
      require(known.contains(key),
              fmt::format("{} has the key \"{}\", which this program does not know; it could change ids", where, key));
  }

  void check_model() const {
    require(model_.is_object(), "expected an object \"model\"");
    const nlohmann::json& type = at(model_, "type");
    require(type.is_null() || type == "BPE", fmt::format("expected a model of type BPE, got {}", type.dump()));
    allow_keys(model_, "the model",
               {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                "byte_fallback", "ignore_merges", "vocab", "merges"});
    require(at(model_, "dropout").is_null(), "dropout must be null: it would make ids random");
    for (const char* key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const nlohmann::json& value = at(model_, key);
      require(value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty()),
              fmt::format("{} is not supported, got {}", key, value.dump()));
    }
    require(!flag(model_, "ignore_merges"), "ignore_merges = true is not supported");
    require(at(model_, "vocab").is_object() && at(model_, "merges").is_array(),
            "expected \"vocab\" as an object and \"merges\" as an array");
  }

  bool flag(const nlohmann::json& tree, const char* key) const {
    const nlohmann::json& value = at(tree, key);
    require(value.is_null() || value.is_boolean(), fmt::format("{} must be true or false, got {}", key, value.dump()));
    return value.is_boolean() && value.get<bool>();
  }

  int32_t id_of(const nlohmann::json& value, const std::string& token) const {
    require(value.is_number_unsigned() && value.get<uint64_t>() < uint64_t{std::numeric_limits<int32_t>::max()},
            fmt::format("expected an id in [0, 2^31) for the token '{}', got {}", token, value.dump()));
    return value.get<int32_t>();
  }

  void add_token(const std::string& token, int32_t id) {
    require(!token.empty(), fmt::format("token {} must not be empty", id));
    require(token.size() <= kMaxPieceBytes,
            fmt::format("token {}: expected at most {} bytes, got {}", id, kMaxPieceBytes, token.size()));
    const auto index = static_cast<size_t>(id);
    require(index < result_.tokens.size(),
            fmt::format("token '{}' has the id {}, but there are {} tokens: ids must be 0, 1, 2, …", token, id,
                        result_.tokens.size()));
    require(result_.tokens[index].name.empty(),
            fmt::format("the id {} is given to '{}' and to '{}'", id, result_.tokens[index].name, token));
    result_.tokens[index].name = token;
    ids_.emplace(token, id);
  }

  /// Ids must be 0, 1, 2, …: as many as there are names in the vocabulary and among the added tokens.
  void read_vocabulary() {
    const nlohmann::json& vocabulary = model_["vocab"];
    const nlohmann::json& added = at(tree_, "added_tokens");
    require(added.is_null() || added.is_array(), "expected an array \"added_tokens\"");
    std::unordered_set<std::string> more;
    for (const nlohmann::json& token : added) {
      const nlohmann::json& content = at(token, "content");
      require(content.is_string(), "expected every added token to be an object with a text \"content\"");
      if (!vocabulary.contains(content.get_ref<const std::string&>())) more.insert(content.get<std::string>());
    }
    require(!vocabulary.empty(), "the vocabulary is empty");
    result_.tokens.resize(vocabulary.size() + more.size());
    for (const auto& [token, id] : vocabulary.items()) add_token(token, id_of(id, token));
  }

  void read_added_tokens() {
    std::unordered_set<std::string> seen;
    const nlohmann::json& added = at(tree_, "added_tokens");
    for (const nlohmann::json& entry : added) {
      const auto content = entry["content"].get<std::string>();
      const int32_t id = id_of(at(entry, "id"), content);
      require(seen.insert(content).second, fmt::format("the added token '{}' appears twice", content));
      const auto known = ids_.find(content);
      if (known == ids_.end()) {
        add_token(content, id);
      } else {
        require(known->second == id, fmt::format("the added token '{}' has the id {}, but {} in the vocabulary",
                                                 content, id, known->second));
      }
      TokenizerJson::Token& token = result_.tokens[static_cast<size_t>(id)];
      token.added = true;
      token.special = flag(entry, "special");
      if (token.special) continue;
      for (const char* key : {"single_word", "lstrip", "rstrip"})
        require(!flag(entry, key), fmt::format("added token '{}': {} = true is not supported", content, key));
      require(!flag(entry, "normalized") || at(tree_, "normalizer").is_null(),
              fmt::format("added token '{}': normalized = true beside a normalizer is not supported", content));
    }
  }

  /// Compares a part of the file with what is supported, which the message shows.
  void require_equal(const nlohmann::json& got, const nlohmann::json& expected, const char* what) const {
    require(got == expected, fmt::format("{}: expected {}, got {}", what, expected.dump(), shorten(got.dump())));
  }
  static std::string shorten(std::string text) {
    if (text.size() > 300) text = text.substr(0, 300) + "…";
    Utf8Stream utf8;
    return utf8.push(text);
  }

  void read_kind() {
    result_.byte_level = at(tree_, "pre_tokenizer").is_object() && at(tree_["pre_tokenizer"], "type") == "ByteLevel";
    const nlohmann::json& unknown = at(model_, "unk_token");
    require(unknown.is_null() || unknown.is_string(), "unk_token must be a text or null");
    if (unknown.is_string()) result_.unknown = unknown.get<std::string>();
    require(result_.unknown.empty() || ids_.contains(result_.unknown),
            fmt::format("the unknown token '{}' is not in the vocabulary", result_.unknown));
    if (result_.byte_level) {
      read_gpt2_kind();
    } else {
      read_llama_kind();
    }
  }

  void read_gpt2_kind() {
    const nlohmann::json& pre = tree_["pre_tokenizer"];
    allow_keys(pre, "the pre-tokenizer", {"type", "add_prefix_space", "trim_offsets", "use_regex"});
    require(at(pre, "use_regex").is_null() || flag(pre, "use_regex"),
            "pre_tokenizer ByteLevel with use_regex = false is not supported");
    result_.prefix_space = at(pre, "add_prefix_space").is_null() || flag(pre, "add_prefix_space");
    require(at(tree_, "normalizer").is_null(), "a normalizer beside the pre-tokenizer ByteLevel is not supported");
    const nlohmann::json& decoder = at(tree_, "decoder");
    require(decoder.is_object() && at(decoder, "type") == "ByteLevel", "expected a decoder of type ByteLevel");
    require(!flag(model_, "byte_fallback"), "byte_fallback beside the pre-tokenizer ByteLevel is not supported");
  }

  void read_llama_kind() {
    const nlohmann::json prepend = {{"type", "Prepend"}, {"prepend", kMarkedSpace}};
    const nlohmann::json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kMarkedSpace}};
    const nlohmann::json both = {{"type", "Sequence"}, {"normalizers", {prepend, replace}}};
    require(at(tree_, "pre_tokenizer").is_null(), fmt::format("expected the pre-tokenizer ByteLevel or none, got {}",
                                                              shorten(at(tree_, "pre_tokenizer").dump())));
    const nlohmann::json& normalizer = at(tree_, "normalizer");
    result_.prefix_space = normalizer != replace;
    if (result_.prefix_space) require_equal(normalizer, both, "normalizer");

    nlohmann::json steps = {{{"type", "Replace"}, {"pattern", {{"String", kMarkedSpace}}}, {"content", " "}},
                            {{"type", "ByteFallback"}},
                            {{"type", "Fuse"}}};
    const nlohmann::json strip = {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}};
    const nlohmann::json& decoder = at(tree_, "decoder");
    result_.strip_space = decoder != nlohmann::json{{"type", "Sequence"}, {"decoders", steps}};
    if (result_.strip_space) steps.push_back(strip);
    require_equal(decoder, {{"type", "Sequence"}, {"decoders", steps}}, "decoder");
    require(flag(model_, "byte_fallback") || !result_.unknown.empty(),
            "expected byte_fallback = true or an unknown token: some characters would have no id");
  }

  /// What the tokens stand for; and of those that text may become, what the merges see.
  void read_texts() {
    BpeModel& bpe = result_.bpe;
    bpe.tokens = static_cast<int32_t>(result_.tokens.size());
    bpe.byte_level = result_.byte_level;
    bpe.fuse_unknown = flag(model_, "fuse_unk");
    if (!result_.unknown.empty()) bpe.unknown = ids_.at(result_.unknown);
    for (TokenizerJson::Token& token : result_.tokens) {
      if (token.added) {
        token.text = token.name;
      } else if (!result_.byte_level) {
        token.text = unmark_spaces(token.name);
      } else {
        require(bytes_of_spelling(token.name, token.text),
                fmt::format("the token '{}' is not spelled in the characters of ByteLevel", token.name));
      }
      // With its spaces marked, text has no others.
      const bool reachable = !token.special && (result_.byte_level || token.name.find(' ') == std::string::npos);
      bpe.symbols.push_back(reachable ? token.text : std::string());
    }
    if (result_.byte_level) require_all_bytes();
    if (!result_.byte_level && flag(model_, "byte_fallback")) read_byte_tokens();
  }

  void require_all_bytes() const {
    std::array<bool, 256> seen{};
    for (const std::string& text : result_.bpe.symbols)
      if (text.size() == 1) seen[static_cast<unsigned char>(text[0])] = true;
    for (size_t byte = 0; byte < 256; ++byte)
      require(seen[byte], fmt::format("no token stands for the byte 0x{:02X}: some texts would have no ids", byte));
  }

  void read_byte_tokens() {
    for (int byte = 0; byte < 256; ++byte) {
      const auto found = ids_.find(fmt::format("<0x{:02X}>", byte));
      require(found != ids_.end(), fmt::format("byte_fallback needs the token <0x{:02X}>, which is missing", byte));
      result_.bpe.byte_fallback.push_back(found->second);
      result_.tokens[static_cast<size_t>(found->second)].text = static_cast<char>(byte);
      result_.bpe.symbols[static_cast<size_t>(found->second)].clear();
    }
  }

  /// "a b", or ["a", "b"].
  std::pair<std::string, std::string> halves(const nlohmann::json& merge, size_t index) const {
    if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
      return {merge[0].get<std::string>(), merge[1].get<std::string>()};
    require(merge.is_string(), fmt::format("merge {}: expected two tokens, got {}", index, shorten(merge.dump())));
    const auto text = merge.get<std::string>();
    const size_t space = text.find(' ');
    require(space != std::string::npos && text.find(' ', space + 1) == std::string::npos,
            fmt::format("merge {}: expected two tokens with one space between, got '{}'", index, shorten(text)));
    return {text.substr(0, space), text.substr(space + 1)};
  }

  void read_merges() {
    std::unordered_set<uint64_t> seen;
    const nlohmann::json& merges = model_["merges"];
    for (size_t index = 0; index < merges.size(); ++index) {
      const auto [left, right] = halves(merges[index], index);
      const auto id = [&](const std::string& token) {
        const auto found = ids_.find(token);
        require(found != ids_.end(), fmt::format("merge {}: '{}' is not in the vocabulary", index, shorten(token)));
        return found->second;
      };
      // Tokens are not empty, so what is merged is longer than its halves and merging ends.
      const BpeModel::Merge merge = {id(left), id(right), id(left + right), static_cast<uint32_t>(index)};
      require(seen.insert(static_cast<uint64_t>(merge.left) << 32 | static_cast<uint32_t>(merge.right)).second,
              fmt::format("merge {}: '{}' and '{}' are merged twice", index, shorten(left), shorten(right)));
      const auto is_text = [&](int32_t token) { return !result_.bpe.symbols[static_cast<size_t>(token)].empty(); };
      if (is_text(merge.left) && is_text(merge.right) && is_text(merge.result)) result_.bpe.merges.push_back(merge);
    }
  }

  std::string_view name_;
  nlohmann::json tree_, model_;
  TokenizerJson result_;
  std::unordered_map<std::string, int32_t> ids_;
};

}  // namespace

TokenizerJson parse_tokenizer_json(std::string_view text, std::string_view name) {
  return TokenizerJsonParser(text, name).parse();
}

}  // namespace megalodon::data
