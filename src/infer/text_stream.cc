#include "infer/text_stream.h"

#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

Json json_of_bytes(std::string_view bytes) {
  Json list = Json::array();
  for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
  return list;
}

/// Of what json_of_bytes() made of the beginning of a character, or of nothing.
Utf8Stream restored_utf8(const Json& pending) {
  Utf8Stream utf8;
  const auto is_byte = [](const Json& value) {
    return value.is_number_integer() && value.get<int64_t>() >= 0 && value.get<int64_t>() < 256;
  };
  bool valid = pending.is_array();
  for (size_t i = 0; valid && i < pending.size(); ++i) {
    valid = is_byte(pending[i]);
    const char byte = valid ? static_cast<char>(pending[i].get<int64_t>()) : '\0';
    valid = valid && utf8.push({&byte, 1}).empty();
  }
  check(valid, "pending: expected the first bytes of a character, got {}", pending.dump());
  return utf8;
}

}  // namespace

void save_text_stream(const fs::path& path, const Engine& engine, const data::Tokenizer& tokenizer,
                      const TextStream& text) {
  save_snapshot(path, engine,
                {text.stream,
                 {{"tokenizer", tokenizer.describe()},
                  {"sampler", text.sampler.state()},
                  {"pending", json_of_bytes(text.utf8.pending())},
                  {"turn", text.turn}}});
}

TextStream text_stream_of(const Snapshot& snapshot, const data::Tokenizer& tokenizer, const SamplerConfig& sampler) {
  const auto of = [&](const char* key, const Json& otherwise) {
    return snapshot.more.is_object() ? snapshot.more.value(key, otherwise) : otherwise;
  };
  const Json described = of("tokenizer", {});
  check(described == tokenizer.describe(), "the snapshot's text is of another tokenizer: expected {}, found {}",
        tokenizer.describe().dump(), described.dump());
  TextStream text{snapshot.stream, Sampler(sampler)};
  try {
    text.sampler.load_state(of("sampler", {}));
  } catch (const Error& error) {
    fail("the sampler cannot go on; give the sampling options that the snapshot was saved with: {}", error.what());
  }
  text.utf8 = restored_utf8(of("pending", Json::array()));
  const Json turn = of("turn", "");
  check(turn.is_string(), "turn: expected text, got {}", turn.dump());
  text.turn = turn.get<std::string>();
  return text;
}

TextStream load_text_stream(const fs::path& path, const Engine& engine, const data::Tokenizer& tokenizer,
                            const SamplerConfig& sampler) {
  const Snapshot snapshot = load_snapshot(path, engine);
  try {
    return text_stream_of(snapshot, tokenizer, sampler);
  } catch (const Error& error) {
    fail("['{}'] {}", path.string(), error.what());
  }
}

}  // namespace megalodon
