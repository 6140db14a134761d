// Text to token ids and back.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace megalodon::data {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocabulary() const = 0;
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// The bytes of one token; a token may hold part of a character (Utf8Stream puts them together).
  virtual std::string decode(int32_t token) const = 0;
  /// What config.json stores: {"type": "bytes"}.
  virtual nlohmann::ordered_json describe() const = 0;
};

/// Token = byte, vocabulary 256.
class ByteTokenizer final : public Tokenizer {
 public:
  int64_t vocabulary() const override { return 256; }
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(int32_t token) const override;
  nlohmann::ordered_json describe() const override;
};

/// From a name on the command line ("bytes"), or from describe()'s object. Throws UsageError naming the known ones.
std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name);
/// Takes the exact type alone: text converts to JSON implicitly, so a plain overload would be ambiguous for strings.
template <std::same_as<nlohmann::ordered_json> Json>
std::unique_ptr<Tokenizer> make_tokenizer(const Json& description);

}  // namespace megalodon::data
