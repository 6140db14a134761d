#include "data/tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon::data {

std::vector<int32_t> ByteTokenizer::encode(std::string_view text) const {
  std::vector<int32_t> tokens(text.size());
  std::transform(text.begin(), text.end(), tokens.begin(), [](char c) { return static_cast<unsigned char>(c); });
  return tokens;
}

std::string ByteTokenizer::decode(int32_t token) const {
  check(token >= 0 && token < 256, "[tokenizer] expected a byte token in [0, 256), got {}", token);
  return {static_cast<char>(static_cast<unsigned char>(token))};
}

nlohmann::ordered_json ByteTokenizer::describe() const {
  return {{"type", "bytes"}};
}

std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name) {
  if (name == "bytes") return std::make_unique<ByteTokenizer>();
  fail_usage("[tokenizer] expected one of: bytes; got '{}'", name);
}

template <std::same_as<nlohmann::ordered_json> Json>
std::unique_ptr<Tokenizer> make_tokenizer(const Json& description) {
  const auto type = description.is_object() ? description.find("type") : description.end();
  if (type == description.end() || !type->is_string()) {
    fail_usage("[tokenizer] expected an object like {{\"type\": \"bytes\"}}, got {}",
               description.dump(-1, ' ', false, Json::error_handler_t::replace));
  }
  return make_tokenizer(std::string_view(type->template get_ref<const std::string&>()));
}

template std::unique_ptr<Tokenizer> make_tokenizer(const nlohmann::ordered_json&);

}  // namespace megalodon::data
