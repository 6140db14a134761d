#include "train/token_check.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon {

std::string check_tokens(const data::TokenFile& file, const data::Tokenizer& tokenizer, const ModelConfig& model) {
  data::check_tokenizer(file, tokenizer);
  // A tokenizer's data holds its ids, and RunConfig::validate() sees to it that the model has all of them.
  if (!file.tokenizer().is_null()) return {};
  const data::TokenRange range = file.range();
  const int64_t known = std::min(model.vocabulary(), model.outputs());
  check(range.smallest >= 0 && range.largest < known,
        "[data] '{}' holds token {}, but the model's vocabulary is {}; nothing beside it says which tokenizer made it",
        file.prefix().string(), range.smallest < 0 ? range.smallest : range.largest, known);
  return fmt::format("tokenizer unknown, taken on trust; largest id {}", range.largest);
}

}  // namespace megalodon
