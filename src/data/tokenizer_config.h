// tokenizer_config.json, which Hugging Face puts beside tokenizer.json and .model files: names of special tokens and
// the chat template. Only data: the template is never run.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/file.h"

namespace megalodon::data {

struct TokenizerConfig {
  std::string text;  // of the file; "" where there is none
  std::optional<std::string> bos, eos, pad, unk;
  std::string chat_template;
};

inline constexpr const char* kTokenizerConfig = "tokenizer_config.json";

TokenizerConfig parse_tokenizer_config(std::string_view text, std::string_view name);
/// The one in this folder, or an empty one.
TokenizerConfig read_tokenizer_config(const fs::path& folder);

}  // namespace megalodon::data
