#include "train/token_check.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/progress.h"
#include "train/signals.h"

namespace megalodon {

std::string check_tokens(const data::TokenFile& file, const data::Tokenizer& tokenizer, const ModelConfig& model) {
  data::check_tokenizer(file, tokenizer);
  // A tokenizer's data holds its ids, and RunConfig::validate() sees to it that the model has all of them.
  if (!file.tokenizer().is_null()) return {};
  Progress scan(fmt::format("scan {}", file.prefix().string()), "bytes");
  const data::TokenRange range = file.range([&](uint64_t done, uint64_t total) {
    throw_if_stopping();
    scan.update(static_cast<int64_t>(done), static_cast<int64_t>(total));
  });
  scan.finish();
  const int64_t known = std::min(model.vocabulary(), model.outputs());
  check(range.smallest >= 0 && range.largest < known,
        "[data] '{}' holds token {}, but the model's vocabulary is {}; nothing beside it says which tokenizer made it",
        file.prefix().string(), range.smallest < 0 ? range.smallest : range.largest, known);
  return fmt::format("tokenizer unknown, taken on trust; largest id {}", range.largest);
}

}  // namespace megalodon
