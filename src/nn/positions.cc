#include "nn/positions.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "base/check.h"

namespace megalodon::nn {
namespace {

/// base^(−2i/K), i = 0 … K/2 − 1.
Tensor powers(int64_t head_dim, double base) {
  return torch::pow(base, torch::arange(0, head_dim, 2, torch::kFloat64) * (-1.0 / static_cast<double>(head_dim)));
}

/// A base whose slowest pair turns `stretch` times slower.
double stretched_base(int64_t head_dim, double base, double stretch) {
  const auto K = static_cast<double>(head_dim);
  return base * std::pow(stretch, K / (K - 2));
}

/// 1 at the pairs that turn more than `fast` times within the original length, 0 at those that turn less than `slow`
/// times, in between by their index.
Tensor left_alone(int64_t head_dim, double base, int64_t original_length, double fast, double slow) {
  const auto K = static_cast<double>(head_dim), M = static_cast<double>(original_length);
  const auto pair_that_turns = [&](double times) {
    return K * std::log(M / (times * 2 * std::numbers::pi)) / (2 * std::log(base));
  };
  const double low = std::max(std::floor(pair_that_turns(fast)), 0.0);
  double high = std::min(std::ceil(pair_that_turns(slow)), K - 1);
  if (low == high) high += 0.001;
  return 1 - ((torch::arange(head_dim / 2, torch::kFloat64) - low) / (high - low)).clamp(0, 1);
}

Tensor blend(const Tensor& a, const Tensor& share_of_b, const Tensor& b) {
  return a * (1 - share_of_b) + b * share_of_b;
}

RopeFrequencies yarn(int64_t head_dim, double base, double factor, const RopeScaling& scaling) {
  const Tensor plain = powers(head_dim, base);
  const Tensor kept = left_alone(head_dim, base, scaling.original_length, scaling.beta_fast, scaling.beta_slow);
  return {blend(plain / factor, kept, plain), factor > 1 ? 0.1 * std::log(factor) + 1 : 1.0};
}

/// The constants are the published ones.
Tensor part_ntk(int64_t head_dim, double base, const RopeScaling& scaling) {
  const Tensor plain = powers(head_dim, base);
  const Tensor ntk = powers(head_dim, stretched_base(head_dim, base, scaling.factor));
  const auto share = [&](double fast, double slow) {
    return left_alone(head_dim, base, scaling.original_length, fast, slow);
  };
  return blend(blend(plain / scaling.factor, share(1.25, 0.75), ntk), share(16, 2), plain);
}

}  // namespace

const std::vector<std::string>& rope_scalings() {
  static const std::vector<std::string> kinds = {"none", "linear",         "ntk",         "part_ntk",
                                                 "yarn", "dynamic_linear", "dynamic_ntk", "dynamic_yarn"};
  return kinds;
}

RopeFrequencies rope_frequencies(int64_t head_dim, double base, const RopeScaling& scaling, int64_t length) {
  const std::string& kind = scaling.kind;
  const double exceeded =
      std::max(1.0, static_cast<double>(length) / static_cast<double>(scaling.original_length));  // L/M
  if (kind == "none") return {powers(head_dim, base)};
  if (kind == "linear") return {powers(head_dim, base) / scaling.factor};
  if (kind == "ntk") return {powers(head_dim, stretched_base(head_dim, base, scaling.factor))};
  if (kind == "part_ntk") return {part_ntk(head_dim, base, scaling)};
  if (kind == "yarn") return yarn(head_dim, base, scaling.factor, scaling);
  if (kind == "dynamic_linear") return {powers(head_dim, base) / exceeded};
  if (kind == "dynamic_ntk") {
    const double stretch = exceeded > 1 ? scaling.factor * exceeded - (scaling.factor - 1) : 1.0;
    return {powers(head_dim, stretched_base(head_dim, base, stretch))};
  }
  if (kind == "dynamic_yarn") return yarn(head_dim, base, exceeded, scaling);
  fail_usage("[model.rope_scaling] expected {}, got \"{}\"", fmt::join(rope_scalings(), ", "), kind);
}

Tensor alibi_slopes(int64_t heads, double max) {
  int64_t n = 1;
  while (n < heads) n *= 2;
  const Tensor slope_N = torch::pow(2.0, torch::arange(1, n + 1, torch::kFloat64) * (-max / static_cast<double>(n)));
  if (n == heads) return slope_N;
  return torch::cat({slope_N.slice(0, 1, n, 2), slope_N.slice(0, 0, n, 2)}).narrow(0, 0, heads);
}

Tensor sinusoid_frequencies(int64_t dim) {
  return powers(dim, 10000);
}

Tensor sinusoids(const Tensor& position_BL, const Tensor& frequency_D) {
  const Tensor angle = position_BL.to(torch::kFloat64).unsqueeze(-1) * frequency_D;
  return torch::stack({torch::sin(angle), torch::cos(angle)}, -1).flatten(-2).to(torch::kFloat32);
}

}  // namespace megalodon::nn
