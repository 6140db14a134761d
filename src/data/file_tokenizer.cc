#include "data/file_tokenizer.h"

#include "base/check.h"
#include "base/hash.h"

namespace megalodon::data {

FileTokenizer::FileTokenizer(const char* type, const char* file_name, std::string bytes, TokenizerConfig config)
    : type_(type),
      file_name_(file_name),
      bytes_(std::move(bytes)),
      sha256_(sha256_hex(bytes_)),
      config_(std::move(config)) {}

nlohmann::ordered_json FileTokenizer::describe() const {
  return {{"type", type_}, {"file", file_name_}, {"sha256", sha256_}, {"vocabulary", vocabulary()}};
}

std::vector<std::pair<std::string, std::string>> FileTokenizer::files() const {
  std::vector<std::pair<std::string, std::string>> files = {{file_name_, bytes_}};
  if (!config_.text.empty()) files.emplace_back(kTokenizerConfig, config_.text);
  return files;
}

void FileTokenizer::check_token(int32_t token) const {
  check(token >= 0 && token < vocabulary(), "[tokenizer] expected a token in [0, {}), got {}", vocabulary(), token);
}

}  // namespace megalodon::data
