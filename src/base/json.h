// JSON from files that nobody vouches for.
#pragma once

#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>

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

}  // namespace megalodon
