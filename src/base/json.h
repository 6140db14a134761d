// JSON from files that nobody vouches for.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

namespace megalodon {

/// How deep arrays and objects may nest where nothing says otherwise.
inline constexpr int kJsonDepth = 32;

/// Throws Error with `source`, the byte and the rule for text that is not one JSON value in UTF-8, nests deeper than
/// `depth`, or gives a key twice in one object (parsers differ in which of them counts).
void check_json(std::string_view text, std::string_view source, int depth = kJsonDepth);

/// The value, after check_json(). `Json` is nlohmann::json, or nlohmann::ordered_json where the order of keys matters
/// and objects are small (it finds keys by looking at all of them).
template <class Json = nlohmann::json>
Json parse_json(std::string_view text, std::string_view source, int depth = kJsonDepth) {
  check_json(text, source, depth);
  return Json::parse(text);
}

}  // namespace megalodon
