// How long the documents or sequences of a file are.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace megalodon::data {

/// All 0 where there are none.
struct Lengths {
  int64_t shortest = 0, p10 = 0, p25 = 0, median = 0, p75 = 0, p90 = 0, p99 = 0, longest = 0, empty = 0;
  double mean = 0;
};

Lengths summarize(std::vector<int64_t> lengths);
/// Part of a line.
std::string to_text(const Lengths& lengths);
nlohmann::ordered_json to_json(const Lengths& lengths);

}  // namespace megalodon::data
