// What the tokens of a .bin/.idx pair are, in a third file that Megatron does not know:
//
//   <prefix>.json  {"format": "megalodon.cpp tokens", "format_version": 1, "tokenizer": {...}, "documents": 2,
//                   "tokens": 4, "prepend_bos": false, "append_eos": true, "largest_token": 255}
//
// Older files lack the last three.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/file.h"
#include "data/token_files.h"

namespace megalodon::data {

struct TokenSidecar {
  nlohmann::ordered_json tokenizer;  // Tokenizer::describe()
  int64_t documents = 0, tokens = 0;
  std::optional<DocumentMarks> marks = {};    // none where it is not known
  std::optional<int64_t> largest_token = {};  // the same; -1 where there are no tokens, which is not written
};

fs::path sidecar_path(const fs::path& prefix);
/// None where the file does not exist; Error where it is not such a file.
std::optional<TokenSidecar> read_sidecar(const fs::path& prefix);
/// The content of the file.
std::string sidecar_text(const TokenSidecar& sidecar);

}  // namespace megalodon::data
