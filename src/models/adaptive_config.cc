#include "models/adaptive_config.h"

#include <charconv>

#include "models/config_checks.h"
#include "nn/adaptive_vocabulary.h"

namespace megalodon {

void AdaptiveConfig::visit(config::Visitor& v) {
  v.field("adaptive_cutoffs", cutoffs,
          "where bands of rarer tokens begin, such as 20000,60000: those get narrower embeddings and a softmax of "
          "their own; empty: one band");
  v.field("adaptive_factor", factor, "how much narrower each band is than the one before");
  v.field("adaptive_dropout", dropout, "on the features of all bands but the first");
}

void AdaptiveConfig::validate(int64_t vocabulary, int64_t model_dim, bool output_is_embedding) const {
  check_size("model.adaptive_factor", factor);
  check_probability("model.adaptive_dropout", dropout);
  const auto bands = static_cast<int64_t>(bounds(vocabulary).size());
  if (bands > 0 && !output_is_embedding)
    fail_usage(
        "[model.share_emb] the output of an adaptive vocabulary is its embedding: share_emb = true, output_size = -1");
  if (nn::AdaptiveVocabulary::width(model_dim, factor, bands) == 0)
    fail_usage("[model.adaptive_factor] model_dim {} divided {} times by {} leaves no feature", model_dim, bands,
               factor);
}

std::vector<int64_t> AdaptiveConfig::bounds(int64_t vocabulary) const {
  std::vector<int64_t> list;
  const char *at = cutoffs.data(), *const end = at + cutoffs.size();
  while (at != end) {
    int64_t value = 0;
    const auto [next, error] = std::from_chars(at, end, value);
    if (error != std::errc() || value <= (list.empty() ? 0 : list.back()) || value >= vocabulary ||
        (next != end && (*next != ',' || next + 1 == end)))
      fail_usage(
          "[model.adaptive_cutoffs] expected rising numbers below vocab_size = {} with commas between, got \"{}\"",
          vocabulary, cutoffs);
    list.push_back(value);
    at = next == end ? end : next + 1;
  }
  return list;
}

}  // namespace megalodon
