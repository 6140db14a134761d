#include "data/tokenizer_config.h"

#include "base/check.h"
#include "base/json.h"

namespace megalodon::data {
namespace {

/// A token is given as its text, or as an object that holds it.
std::optional<std::string> token_of(const nlohmann::json& tree, const char* key, std::string_view name) {
  nlohmann::json value = tree.value(key, nlohmann::json());
  if (value.is_object()) value = value.value("content", nlohmann::json());
  if (value.is_null()) return std::nullopt;
  check(value.is_string(), "[{}] {}: expected a token's text", name, key);
  return value.get<std::string>();
}

/// One template, or several with names, of which the one called "default" counts.
std::string chat_template_of(const nlohmann::json& tree, std::string_view name) {
  const nlohmann::json value = tree.value("chat_template", nlohmann::json());
  if (value.is_null()) return {};
  if (value.is_string()) return value.get<std::string>();
  check(value.is_array(), "[{}] chat_template: expected a text, or a list of named ones", name);
  for (const nlohmann::json& entry : value)
    if (entry.is_object() && entry.value("name", nlohmann::json()) == "default" &&
        entry.value("template", nlohmann::json()).is_string())
      return entry["template"].get<std::string>();
  return {};
}

}  // namespace

TokenizerConfig parse_tokenizer_config(std::string_view text, std::string_view name) {
  const nlohmann::json tree = parse_json(text, name);
  check(tree.is_object(), "[{}] expected a JSON object", name);
  return {std::string(text),
          token_of(tree, "bos_token", name),
          token_of(tree, "eos_token", name),
          token_of(tree, "pad_token", name),
          token_of(tree, "unk_token", name),
          chat_template_of(tree, name)};
}

TokenizerConfig read_tokenizer_config(const fs::path& folder) {
  const fs::path path = folder / kTokenizerConfig;
  return fs::is_regular_file(path) ? parse_tokenizer_config(read_file(path), path.string()) : TokenizerConfig();
}

}  // namespace megalodon::data
