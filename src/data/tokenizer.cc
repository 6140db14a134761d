#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "data/json_tokenizer.h"
#include "data/sentencepiece_tokenizer.h"

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

constexpr uintmax_t kMaxTokenizerBytes = uintmax_t{256} << 20;

/// The file that a name stands for: itself, or the tokenizer in a folder; empty for what is neither.
fs::path find_file(const fs::path& name) {
  if (fs::is_directory(name)) {
    for (const char* file : {SentencePieceTokenizer::kFile, JsonTokenizer::kFile})
      if (fs::exists(name / file)) return name / file;
    return {};
  }
  const bool known = name.extension() == ".model" || name.extension() == ".json";
  return known && fs::exists(name) ? name : fs::path();
}

std::unique_ptr<Tokenizer> load(const fs::path& path) {
  check(fs::is_regular_file(path) && fs::file_size(path) <= kMaxTokenizerBytes,
        "[tokenizer] '{}': expected a file of at most {} bytes", path.string(), kMaxTokenizerBytes);
  std::string bytes = read_file(path);
  TokenizerConfig config = read_tokenizer_config(path.parent_path());
  if (path.extension() == ".model")
    return std::make_unique<SentencePieceTokenizer>(std::move(bytes), path.string(), std::move(config));
  return std::make_unique<JsonTokenizer>(std::move(bytes), path.string(), std::move(config));
}

std::string text_of(const Json& description, const char* key) {
  const auto found = description.find(key);
  return found == description.end() || !found->is_string() ? std::string() : found->get<std::string>();
}

}  // namespace

std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  const fs::path file = find_file(name);
  if (file.empty()) {
    const fs::path path(name);
    const bool is_path = path.has_extension() || path.has_parent_path();
    check(!is_path || fs::exists(path), "[tokenizer] '{}' does not exist", name);
    fail_usage(
        "[tokenizer] expected bytes, a SentencePiece file *.model, a tokenizer.json or a folder that holds one; got "
        "'{}'{}",
        name, fs::exists(name) ? ", which is none of these" : "");
  }
  return load(file);
}

template <std::same_as<Json> J>
std::unique_ptr<Tokenizer> make_tokenizer(const J& description, const fs::path& folder) {
  const std::string type = description.is_object() ? text_of(description, "type") : "";
  if (type == "bytes") return std::make_unique<ByteTokenizer>();
  const bool is_sentencepiece = type == "sentencepiece";
  if (!is_sentencepiece && type != "tokenizer_json") {
    fail_usage("[tokenizer] expected a description of type bytes, sentencepiece or tokenizer_json, got {}",
               description.dump(-1, ' ', false, J::error_handler_t::replace));
  }
  // The name in the description is for people: whatever it says, no other file is opened.
  const fs::path file = folder / (is_sentencepiece ? SentencePieceTokenizer::kFile : JsonTokenizer::kFile);
  auto tokenizer = load(file);
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

std::string tokenizer_text(const Json& description) {
  if (!description.is_object()) return "unknown";
  const std::string type = text_of(description, "type"), hash = text_of(description, "sha256");
  if (hash.empty()) return type.empty() ? "unknown" : type;
  return fmt::format("{} {}… ({} tokens)", type, hash.substr(0, 12), description.value("vocabulary", Json()).dump());
}

}  // namespace megalodon::data
