// JSON from files that nobody vouches for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>

#include "base/check.h"

namespace megalodon {

/// How deep arrays and objects may nest where nothing says otherwise.
inline constexpr int kJsonDepth = 32;

/// Throws Error with `source`, the byte and the rule for text that is not one JSON value in UTF-8, nests deeper than
/// `depth`, has more than `most_keys` keys in one object, or one of them twice (parsers differ in which of them
/// counts).
void check_json(std::string_view text, std::string_view source, int depth = kJsonDepth, size_t most_keys = SIZE_MAX);

/// The value, after check_json(). `Json` is nlohmann::json, or nlohmann::ordered_json where the order of keys matters
/// and objects are small: it compares each new key with all before it, so it may have 10,000.
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, std::string_view source, int depth = kJsonDepth) {
  check_json(text, source, depth, std::is_same_v<Json, nlohmann::ordered_json> ? 10'000 : SIZE_MAX);
  return Json::parse(text);
}

/// The whole number from 0 to 2^63 - 1 that the object `tree` has under the key. Throws Error with `source` and the key
/// where it has none.
template <class Json>
int64_t count_at(const Json& tree, const char* key, std::string_view source) {
  const auto found = tree.find(key);
  const bool present = found != tree.end();
  // From 2^63 on the conversion ends below 0.
  check(present && found->is_number_integer() && found->template get<int64_t>() >= 0,
        "[{}] {} must be a whole number from 0 on, got {}; the file is damaged", source, key,
        present ? found->dump() : "nothing");
  return found->template get<int64_t>();
}

}  // namespace megalodon
