// Lines of JSON. No line may throw; what is taken from one must be what a JSON library finds there.
#include "data/jsonl.h"

#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  const std::string_view line = fuzz::text_of(data, size);
  const data::JsonlText result = data::parse_jsonl_line(line, "text");
  fuzz::require(is_valid_utf8(result.error) && (result.error.empty() || result.text.empty()));
  if (!result.error.empty()) return 0;
  const auto tree = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  fuzz::require(tree.is_object() && tree.contains("text") && tree["text"] == result.text);
  fuzz::require(is_valid_utf8(result.text));
  return 0;
}
