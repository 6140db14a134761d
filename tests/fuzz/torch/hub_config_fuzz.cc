// config.json of Hugging Face's Llama and MPT folders. What is read can be written, and reads as the same function.
#include "base/json.h"
#include "models/hub.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  using Json = nlohmann::ordered_json;
  TransformerConfig config;
  const bool is_read = fuzz::accepts([&] {
    const Json tree = parse_json<Json>(fuzz::text_of(data, size), "fuzz");
    check(tree.is_object(), "[fuzz] expected an object");
    config = config_from_hub(tree, "fuzz");
  });
  if (!is_read) return 0;
  const Json written = config_to_hub(config);  // throws, which is a finding, where the same cannot be said
  fuzz::require(config_to_hub(config_from_hub(written, "fuzz")) == written);
  return 0;
}
