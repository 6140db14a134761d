#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon::data {

using Json = nlohmann::ordered_json;

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

std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  fail_usage("[tokenizer] expected one of: bytes; got '{}'", name);
}

template <std::same_as<Json> J>
std::unique_ptr<Tokenizer> make_tokenizer(const J& description, const fs::path&) {
  const auto type = description.is_object() ? description.find("type") : description.end();
  if (type == description.end() || !type->is_string()) {
    fail_usage("[tokenizer] expected an object like {{\"type\": \"bytes\"}}, got {}",
               description.dump(-1, ' ', false, J::error_handler_t::replace));
  }
  return make_tokenizer(std::string_view(type->template get_ref<const std::string&>()));
}

template std::unique_ptr<Tokenizer> make_tokenizer(const Json&, const fs::path&);

bool same_tokenizer(const Json& a, const Json& b) {
  if (!a.is_object() || !b.is_object()) return false;
  return a.value("type", Json()) == b.value("type", Json()) && a.value("sha256", Json()) == b.value("sha256", Json());
}

std::string tokenizer_text(const Json& description) {
  if (!description.is_object()) return "unknown";
  const auto text = [&](const char* key) {
    const auto found = description.find(key);
    return found == description.end() || !found->is_string() ? std::string() : found->template get<std::string>();
  };
  const std::string type = text("type"), hash = text("sha256");
  if (hash.empty()) return type.empty() ? "unknown" : type;
  return fmt::format("{} {}… ({} tokens)", type, hash.substr(0, 12), description.value("vocabulary", Json()).dump());
}

}  // namespace megalodon::data
