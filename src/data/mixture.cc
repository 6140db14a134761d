#include "data/mixture.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace megalodon::data {
namespace {

__extension__ using Wide = unsigned __int128;  // positions times weights

MixtureEntry parse_entry(const std::string& entry, const std::string& key) {
  const size_t star = entry.rfind('*');
  MixtureEntry result{entry.substr(0, star)};
  if (star != std::string::npos) {
    const char *begin = entry.data() + star + 1, *end = entry.data() + entry.size();
    const auto [stop, error] = std::from_chars(begin, end, result.weight);
    if (error != std::errc() || stop != end || !std::isfinite(result.weight) || result.weight <= 0)
      fail_usage("[{}] expected a positive number after '*', got \"{}\"", key, entry);
  }
  if (result.prefix.empty())
    fail_usage("[{}] expected the prefix of a .bin/.idx pair, or prefix*weight, got \"{}\"", key, entry);
  return result;
}

}  // namespace

std::vector<MixtureEntry> parse_mixture(const std::vector<std::string>& list, const std::string& key) {
  if (list.empty()) fail_usage("[{}] missing: give the prefix of a .bin/.idx pair (see: megalodon data prepare)", key);
  std::vector<MixtureEntry> entries;
  for (const std::string& entry : list) {
    entries.push_back(parse_entry(entry, key));
    if ((entries.back().weight > 0) != (entries.front().weight > 0))
      fail_usage("[{}] give every corpus a weight or none: \"{}\" and \"{}\" do not go together", key, list.front(),
                 entry);
  }
  return entries;
}

Mixture::Mixture(std::vector<int64_t> weights) : weights_(std::move(weights)), sums_(weights_.size()) {
  check(!weights_.empty() && *std::min_element(weights_.begin(), weights_.end()) > 0,
        "[mixture] expected one positive weight or more");
  std::partial_sum(weights_.rbegin(), weights_.rend(), sums_.rbegin());
}

Mixture Mixture::of_shares(std::span<const double> shares) {
  const double sum = std::accumulate(shares.begin(), shares.end(), 0.0);
  std::vector<int64_t> weights;
  for (const double share : shares) weights.push_back(std::max<int64_t>(std::llround(share / sum * 0x1p40), 1));
  return Mixture(std::move(weights));
}

/// Of `rest` positions that the corpora before this one left over: rest · weight / sum, rounded. It never grows by more
/// than one when `rest` does, because a weight is no more than the sum.
int64_t Mixture::portion(size_t corpus, int64_t rest) const {
  const auto sum = static_cast<Wide>(sums_[corpus]);
  return static_cast<int64_t>((static_cast<Wide>(rest) * static_cast<Wide>(weights_[corpus]) * 2 + sum) / (sum * 2));
}

Mixture::Place Mixture::at(int64_t position) const {
  int64_t rest = position;
  for (size_t corpus = 0;; ++corpus) {
    const int64_t before = portion(corpus, rest);
    if (portion(corpus, rest + 1) > before) return {corpus, before};  // the last corpus takes all that comes to it
    rest -= before;
  }
}

std::vector<int64_t> Mixture::counts(int64_t positions) const {
  std::vector<int64_t> counts;
  for (size_t corpus = 0; corpus < weights_.size(); ++corpus) {
    counts.push_back(portion(corpus, positions));
    positions -= counts.back();
  }
  return counts;
}

double Mixture::share(size_t corpus) const {
  return static_cast<double>(weights_[corpus]) / static_cast<double>(sums_[0]);
}

}  // namespace megalodon::data
