#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "data/json_tokenizer.h"
#include "data/sentencepiece_tokenizer.h"
#include "data/word_tokenizer.h"

namespace megalodon::data {

using Json = nlohmann::ordered_json;

void Tokenizer::save(const fs::path& folder) const {
  for (const auto& [name, text] : files()) write_file_atomically(folder / name, text);
}

std::vector<int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens(text.size());
  std::transform(text.begin(), text.end(), tokens.begin(), [](char c) { return static_cast<unsigned char>(c); });
  return tokens;
}

std::string ByteTokenizer::decode(int32_t token) const {
  check(token >= 0 && token < 256, "[tokenizer] expected a byte token in [0, 256), got {}", token);
  return {static_cast<char>(static_cast<unsigned char>(token))};
}

std::string ByteTokenizer::decode_text(std::span<const int32_t> tokens) const {
  std::string text;
  for (const int32_t token : tokens) text += decode(token);
  return text;
}

Json ByteTokenizer::describe() const {
  return {{"type", "bytes"}};
}

namespace {

/// A tokenizer that comes from a file.
struct Kind {
  const char *type, *file;  // of describe()
  std::unique_ptr<Tokenizer> (*make)(std::string bytes, std::string_view name, TokenizerConfig config);
  bool has(const fs::path& path) const { return path.extension() == fs::path(file).extension(); }
};

template <class T>
std::unique_ptr<Tokenizer> make_from_file(std::string bytes, std::string_view name, TokenizerConfig config) {
  return std::make_unique<T>(std::move(bytes), name, std::move(config));
}

/// Of several in a folder, the first.
constexpr Kind kKinds[] = {
    {"sentencepiece", SentencePieceTokenizer::kFile, make_from_file<SentencePieceTokenizer>},
    {"tokenizer_json", JsonTokenizer::kFile, make_from_file<JsonTokenizer>},
    {"words", WordTokenizer::kFile, make_from_file<WordTokenizer>},
};

std::unique_ptr<Tokenizer> load(const Kind& kind, const fs::path& path) {
  check(fs::is_regular_file(path) && fs::file_size(path) <= FileTokenizer::kMaxBytes,
        "[tokenizer] '{}': expected a file of at most {} bytes", path.string(), FileTokenizer::kMaxBytes);
  return kind.make(read_file(path), path.string(), read_tokenizer_config(path.parent_path()));
}

/// What a name stands for: the file itself, or the one in a folder; null for what is neither.
std::unique_ptr<Tokenizer> load_named(const fs::path& name) {
  for (const Kind& kind : kKinds) {
    const fs::path file = fs::is_directory(name) ? name / kind.file : name;
    if (kind.has(file) && fs::exists(file)) return load(kind, file);
  }
  return nullptr;
}

std::string text_of(const Json& description, const char* key) {
  const auto found = description.find(key);
  return found == description.end() || !found->is_string() ? std::string() : found->get<std::string>();
}

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  if (auto tokenizer = load_named(name)) return tokenizer;
  const fs::path path(name);
  const bool is_path = path.has_extension() || path.has_parent_path();
  check(!is_path || fs::exists(path), "[tokenizer] '{}' does not exist", name);
  fail_usage(
      "[tokenizer] expected bytes, a SentencePiece file *.model, a tokenizer.json, a list of words *.words or a folder "
      "that holds one; got '{}'{}",
      name, fs::exists(path) ? ", which is none of these" : "");
}

template <std::same_as<Json> J>
std::unique_ptr<Tokenizer> make_tokenizer(const J& description, const fs::path& folder) {
  const std::string type = description.is_object() ? text_of(description, "type") : "";
  if (type == "bytes") return std::make_unique<ByteTokenizer>();
  const auto kind = std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& k) { return type == k.type; });
  if (kind == std::end(kKinds)) {
    fail_usage("[tokenizer] expected a description of type bytes, sentencepiece, tokenizer_json or words, got {}",
               description.dump(-1, ' ', false, J::error_handler_t::replace));
  }
  // The name in the description is for people: whatever it says, no other file is opened.
  const fs::path file = folder / kind->file;
  auto tokenizer = load(*kind, file);
  check(tokenizer->fingerprint() == text_of(description, "sha256"),
        "[tokenizer] '{}' is another file than the one described: expected the SHA-256 {}, got {}", file.string(),
        text_of(description, "sha256"), tokenizer->fingerprint());
  return tokenizer;
}

template std::unique_ptr<Tokenizer> make_tokenizer(const Json&, const fs::path&);

bool same_tokenizer(const Json& a, const Json& b) {
  if (!a.is_object() || !b.is_object()) return false;
  return a.value("type", Json()) == b.value("type", Json()) && a.value("sha256", Json()) == b.value("sha256", Json());
}

void check_tokenizer(const Json& description, const fs::path& path, const Tokenizer& tokenizer) {
  const Json mine = tokenizer.describe();
  check(description.is_null() || same_tokenizer(description, mine),
        "[token file] '{}' was prepared with the tokenizer {}, but here the tokenizer is {}; prepare the corpus with "
        "the model's tokenizer",
        path.string(), tokenizer_text(description), tokenizer_text(mine));
}

std::string tokenizer_text(const Json& description) {
  if (!description.is_object()) return "unknown";
  const std::string type = text_of(description, "type"), hash = text_of(description, "sha256");
  if (hash.empty()) return type.empty() ? "unknown" : type;
  return fmt::format("{} {}… ({} tokens)", type, hash.substr(0, 12), description.value("vocabulary", Json()).dump());
}

}  // namespace megalodon::data
