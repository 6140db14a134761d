// How several corpora share a run: which of them the sequence at a position comes from, in closed form.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace megalodon::data {

/// An entry of data.train: "prefix" or "prefix*weight".
struct MixtureEntry {
  std::string prefix;
  double weight = 0;  // share of the tokens, relative to the others'; 0: none given
};

/// Throws UsageError naming the key for an empty list, a weight that is no positive number, and where some entries have
/// a weight and others have not.
std::vector<MixtureEntry> parse_mixture(const std::vector<std::string>& list, const std::string& key);

/// Spreads positions over corpora as evenly as whole numbers allow: at every position each corpus has had its exact
/// share of all positions so far, give or take less than one for every corpus. The first corpus gets the rounded
/// multiple of its share, the second the rounded multiple of its share of the rest, and so on.
class Mixture {
 public:
  /// Positive weights whose sum is below 2^62.
  explicit Mixture(std::vector<int64_t> weights);
  /// Weights as near to these positive numbers as 40 bits allow.
  static Mixture of_shares(std::span<const double> shares);

  struct Place {
    size_t corpus = 0;
    int64_t index = 0;  // how many of the positions before this one are the corpus's
  };
  Place at(int64_t position) const;
  /// How many of the first `positions` are each corpus's.
  std::vector<int64_t> counts(int64_t positions) const;
  /// Of all positions, in the long run.
  double share(size_t corpus) const;

 private:
  int64_t portion(size_t corpus, int64_t rest) const;

  std::vector<int64_t> weights_, sums_;  // sums_[i]: weights i and later
};

}  // namespace megalodon::data
