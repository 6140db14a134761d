// Text to token ids and back.
//
//   bytes               token = byte
//   *.model             a SentencePiece model, BPE or unigram
//   tokenizer.json      Hugging Face's BPE, of the Llama-2 kind (byte fallback) or the GPT-2 kind (byte-level)
//   *.words             a list of words; token = what stands between white space
//
// A tokenizer never changes once it is made, and any number of threads may use it at once.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/file.h"

namespace megalodon::data {

/// Ids of the tokens that mark things instead of standing for text; what a tokenizer does not have is empty.
struct SpecialTokens {
  std::optional<int32_t> bos, eos, pad, unk;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual int64_t vocabulary() const = 0;
  /// The ids of a text, without marks of its beginning or end. Text that looks like a special token is text.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;
  /// Whether encode(a + b) is encode(a) followed by encode(b) for all texts, so that a text may be larger than memory.
  virtual bool encodes_in_pieces() const { return false; }
  /// The bytes of one token, as they continue a text: a token may hold part of a character (Utf8Stream puts them
  /// together), and special tokens have none.
  virtual std::string decode(int32_t token) const = 0;
  /// The text of a whole sequence: what encode() put before the text is taken away again, and where the tokenizer
  /// defines it so, ill-formed UTF-8 becomes U+FFFD.
  virtual std::string decode_text(std::span<const int32_t> tokens) const = 0;
  virtual SpecialTokens special_tokens() const { return {}; }
  /// The Jinja template of conversations that came with the tokenizer, as it stands; "" where none did.
  virtual std::string chat_template() const { return {}; }
  /// What config.json and prepared data store: {"type": "bytes"}, or {"type": "sentencepiece" | "tokenizer_json" |
  /// "words", "file": "tokenizer.model", "sha256": "...", "vocabulary": 32000}. Does not depend on where the file was
  /// read.
  virtual nlohmann::ordered_json describe() const = 0;
  /// SHA-256 of the tokenizer's file, or "bytes": equal fingerprints mean equal ids.
  virtual std::string fingerprint() const = 0;
  /// Names and contents of the files that make_tokenizer(describe(), folder) needs; none for bytes.
  virtual std::vector<std::pair<std::string, std::string>> files() const { return {}; }
  void save(const fs::path& folder) const;

 protected:
  Tokenizer() = default;
  Tokenizer(const Tokenizer&) = default;
  Tokenizer& operator=(const Tokenizer&) = default;
};

/// Token = byte, vocabulary 256.
class ByteTokenizer final : public Tokenizer {
 public:
  int64_t vocabulary() const override { return 256; }
  bool encodes_in_pieces() const override { return true; }
  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(int32_t token) const override;
  std::string decode_text(std::span<const int32_t> tokens) const override;
  nlohmann::ordered_json describe() const override;
  std::string fingerprint() const override { return "bytes"; }
};

/// From a name on the command line or in a run file: "bytes", a path that ends in ".model", ".json" or ".words", or a
/// folder that holds a tokenizer.model, tokenizer.json or tokenizer.words. Throws UsageError for a name that is none of
/// these, Error for a file that is damaged.
std::unique_ptr<Tokenizer> make_tokenizer(std::string_view name);
/// From describe()'s object and the folder that save() wrote to. Throws Error where the file there is another one (its
/// SHA-256 is compared).
/// Takes the exact type alone: text converts to JSON implicitly, so a plain overload would be ambiguous for strings.
template <std::same_as<nlohmann::ordered_json> Json>
std::unique_ptr<Tokenizer> make_tokenizer(const Json& description, const fs::path& folder);

/// Whether two describe() objects stand for the same ids.
bool same_tokenizer(const nlohmann::ordered_json& a, const nlohmann::ordered_json& b);
/// Throws Error, naming both, where the description says that another tokenizer made the data at `path`. Null says
/// nothing and passes.
void check_tokenizer(const nlohmann::ordered_json& description, const fs::path& path, const Tokenizer& tokenizer);
/// "sentencepiece 9e556afd4421… (32000 tokens)", for messages.
std::string tokenizer_text(const nlohmann::ordered_json& description);

}  // namespace megalodon::data
