// What tokenizers that come from a file have in common: the file's identity and a copy of it for model folders.
#pragma once

#include <nlohmann/json.hpp>

#include "data/tokenizer.h"
#include "data/tokenizer_config.h"

namespace megalodon::data {

class FileTokenizer : public Tokenizer {
 public:
  static constexpr size_t kMaxBytes = size_t{256} << 20;  // of a file that make_tokenizer() opens

  std::string chat_template() const override { return config_.chat_template; }
  nlohmann::ordered_json describe() const override;
  std::string fingerprint() const override { return sha256_; }
  std::vector<std::pair<std::string, std::string>> files() const override;

 protected:
  /// `type` and `file_name` are those of describe(); `bytes` is the file's content.
  FileTokenizer(const char* type, const char* file_name, std::string bytes, TokenizerConfig config);

  const std::string& bytes() const { return bytes_; }
  const TokenizerConfig& config() const { return config_; }
  /// Throws Error for what is no token.
  void check_token(int32_t token) const;

 private:
  const char *type_, *file_name_;
  std::string bytes_, sha256_;
  TokenizerConfig config_;
};

}  // namespace megalodon::data
