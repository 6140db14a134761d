#include "data/lengths.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>

namespace megalodon::data {

Lengths summarize(std::vector<int64_t> lengths) {
  if (lengths.empty()) return {};
  std::sort(lengths.begin(), lengths.end());
  const auto at = [&](double fraction) {
    return lengths[static_cast<size_t>(fraction * static_cast<double>(lengths.size() - 1))];
  };
  const auto empty = std::upper_bound(lengths.begin(), lengths.end(), 0) - lengths.begin();
  const int64_t sum = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
  return {lengths.front(), at(0.1),
          at(0.25),        lengths[lengths.size() / 2],
          at(0.75),        at(0.9),
          at(0.99),        lengths.back(),
          empty,           static_cast<double>(sum) / static_cast<double>(lengths.size())};
}

std::string to_text(const Lengths& l) {
  return fmt::format(
      "shortest {}, median {}, longest {}, mean {:.1f}; 10% {}, 25% {}, 75% {}, 90% {}, 99% {}; {} empty", l.shortest,
      l.median, l.longest, l.mean, l.p10, l.p25, l.p75, l.p90, l.p99, l.empty);
}

nlohmann::ordered_json to_json(const Lengths& l) {
  return {{"shortest", l.shortest}, {"p10", l.p10}, {"p25", l.p25},         {"median", l.median}, {"p75", l.p75},
          {"p90", l.p90},           {"p99", l.p99}, {"longest", l.longest}, {"mean", l.mean},     {"empty", l.empty}};
}

}  // namespace megalodon::data
