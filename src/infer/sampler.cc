#include "infer/sampler.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <ranges>

#include "base/check.h"
#include "base/json.h"
#include "base/philox.h"

namespace megalodon {
namespace {

constexpr float kImpossible = -std::numeric_limits<float>::infinity();

/// The same. Throws UsageError for what is out of range.
const SamplerConfig& validated(const SamplerConfig& c) {
  const auto expect = [](bool holds, const char* option, const char* expected, auto got) {
    if (!holds) fail_usage("[{}] expected {}, got {}", option, expected, got);
  };
  const auto positive = [](double value) { return value > 0 && std::isfinite(value); };
  const auto share = [](double value) { return value > 0 && value <= 1; };
  expect(c.temperature >= 0 && std::isfinite(c.temperature), "temperature", "0 or more", c.temperature);
  expect(c.top_k >= 0, "top-k", "0 or more", c.top_k);
  expect(c.min_p >= 0 && c.min_p <= 1, "min-p", "a number in [0, 1]", c.min_p);
  expect(share(c.typical_p), "typical-p", "a number in (0, 1]", c.typical_p);
  expect(share(c.top_p), "top-p", "a number in (0, 1]", c.top_p);
  expect(positive(c.repetition_penalty), "repetition-penalty", "a number above 0", c.repetition_penalty);
  expect(std::isfinite(c.presence_penalty), "presence-penalty", "a finite number", c.presence_penalty);
  expect(std::isfinite(c.frequency_penalty), "frequency-penalty", "a finite number", c.frequency_penalty);
  expect(c.penalty_last_n >= -1, "penalty-last-n", "-1 (all) or more", c.penalty_last_n);
  expect(positive(c.mirostat_tau), "mirostat-tau", "a number above 0", c.mirostat_tau);
  expect(positive(c.mirostat_eta), "mirostat-eta", "a number above 0", c.mirostat_eta);
  if (!c.mirostat) return c;
  expect(c.temperature > 0, "mirostat", "a temperature above 0", c.temperature);
  if (c.top_k > 0 || c.min_p > 0 || c.typical_p < 1 || c.top_p < 1)
    fail_usage("[mirostat] takes the place of top-k, min-p, typical-p and top-p: expected none of them beside it");
  return c;
}

std::pair<int64_t, float> parse_bias(const std::string& text) {
  const char *end = text.data() + text.size(), *equals = std::find(text.data(), end, '=');
  int64_t token = 0;
  float bias = 0;
  const auto id = std::from_chars(text.data(), equals, token);
  const auto value = std::from_chars(std::min(equals + 1, end), end, bias);
  const bool whole = id.ec == std::errc() && id.ptr == equals && value.ec == std::errc() && value.ptr == end;
  if (!whole || token < 0 || !(bias <= std::numeric_limits<float>::max()))
    fail_usage("[logit-bias] expected ID=VALUE, a token and a finite number or -inf, got '{}'", text);
  return {token, bias};
}

std::vector<std::pair<int64_t, float>> parse_biases(const std::vector<std::string>& list) {
  std::vector<std::pair<int64_t, float>> biases;
  for (const std::string& text : list) biases.push_back(parse_bias(text));
  std::sort(biases.begin(), biases.end());
  const auto same_token = [](const auto& a, const auto& b) { return a.first == b.first; };
  const auto twice = std::adjacent_find(biases.begin(), biases.end(), same_token);
  if (twice != biases.end()) fail_usage("[logit-bias] expected each token once, got {} twice", twice->first);
  return biases;
}

float penalized(double logit, int64_t count, const SamplerConfig& config) {
  logit = logit > 0 ? logit / config.repetition_penalty : logit * config.repetition_penalty;
  return static_cast<float>(logit - config.presence_penalty - config.frequency_penalty * static_cast<double>(count));
}

}  // namespace

void SamplerConfig::visit(config::Visitor& v) {
  v.field("logit_bias", logit_bias, "ID=VALUE, once or more: added to the logit of that token; -inf bans it");
  v.field("repetition_penalty", repetition_penalty,
          "divides the logits of recent tokens where positive, multiplies them elsewhere; 1: off");
  v.field("presence_penalty", presence_penalty, "subtracted from the logits of recent tokens; 0: off");
  v.field("frequency_penalty", frequency_penalty, "the same, for each time that they occurred; 0: off");
  v.field("penalty_last_n", penalty_last_n,
          "the last so many tokens of prompt and output are recent to the penalties; -1: all");
  v.field("temperature", temperature, "0 picks the likeliest token; higher is more varied");
  v.field("top_k", top_k, "sample among the k likeliest tokens only; 0: all");
  v.field("min_p", min_p, "sample among tokens of at least this share of the likeliest's probability; 0: all");
  v.field("typical_p", typical_p,
          "sample among the tokens whose surprise is nearest to the expected one and that together hold this "
          "probability; 1: all");
  v.field("top_p", top_p, "sample among the likeliest tokens that together hold this probability; 1: all");
  v.field("mirostat", mirostat, "Mirostat v2: cut what surprises more than a bound that is steered towards tau");
  v.field("mirostat_tau", mirostat_tau, "with --mirostat: the surprise to aim at, in bits per token");
  v.field("mirostat_eta", mirostat_eta, "with --mirostat: how much of an error corrects the bound");
  v.field("seed", seed, "of the random numbers; the same seed gives the same text");
}

Sampler::Sampler(const SamplerConfig& config)
    : config_(validated(config)),
      bias_(parse_biases(config.logit_bias)),
      seed_(config.seed),
      mirostat_mu_(2 * config.mirostat_tau),
      history_(config.penalizes() ? config.penalty_last_n : 0) {}

void Sampler::check_vocabulary(int64_t vocabulary) const {
  if (!bias_.empty() && bias_.back().first >= vocabulary)
    fail_usage("[logit-bias] expected tokens from 0 to {}, got {}", vocabulary - 1, bias_.back().first);
}

void Sampler::read(std::span<const int64_t> tokens) {
  for (const int64_t token : tokens) history_.add(token);
}

int64_t Sampler::sample(const Tensor& logits_V) {
  const Tensor row_V = float_logits(logits_V);
  return sample(span_of(row_V));
}

int64_t Sampler::sample(std::span<const float> logits_V) {
  check_vocabulary(static_cast<int64_t>(logits_V.size()));
  const std::span<const float> row_V = adjust(logits_V);
  const int32_t best = likeliest(row_V);
  int64_t token = best;
  if (config_.temperature > 0) {
    keep_possible(row_V, row_V[best]);
    weigh(row_V, row_V[best]);
    if (config_.typical_p < 1) keep_typical(row_V);
    if (config_.top_p < 1) keep_share(config_.top_p, Likelier{row_V});
    token = config_.mirostat ? pick_by_surprise(best) : pick();
  }
  ++draws_;
  history_.add(token);
  return token;
}

/// Biases and penalties.
std::span<const float> Sampler::adjust(std::span<const float> logits_V) {
  if (bias_.empty() && history_.counts().empty()) return logits_V;
  adjusted_V_.assign(logits_V.begin(), logits_V.end());
  for (const auto& [token, bias] : bias_) adjusted_V_[token] += bias;
  for (const auto& [token, count] : history_.counts()) {
    if (token >= static_cast<int64_t>(logits_V.size())) break;  // a prompt may hold tokens that are never drawn
    adjusted_V_[token] = penalized(adjusted_V_[token], count, config_);
  }
  return adjusted_V_;
}

/// Top-k and min-p: cuts in the order of the logits, which need no probabilities.
void Sampler::keep_possible(std::span<const float> logits_V, double highest) {
  const double least = highest + config_.temperature * std::log(config_.min_p);  // -inf for 0
  const auto possible = [&](int32_t v) { return logits_V[v] >= least && logits_V[v] != kImpossible; };
  const auto all = std::views::iota(0, static_cast<int32_t>(logits_V.size()));
  if (config_.top_k > 0 && config_.top_k < static_cast<int64_t>(logits_V.size())) {
    kept_.resize(config_.top_k);
    std::ranges::partial_sort_copy(all, kept_, Likelier{logits_V});
    std::erase_if(kept_, [&](int32_t v) { return !possible(v); });
  } else {
    kept_.clear();
    std::ranges::copy_if(all, std::back_inserter(kept_), possible);
  }
}

void Sampler::weigh(std::span<const float> logits_V, float highest) {
  weights_V_.resize(logits_V.size());
  for (const int32_t v : kept_) weights_V_[v] = std::exp((logits_V[v] - highest) / config_.temperature);
}

/// With z = logit / temperature, −log p = log Σ exp(z) − z and the entropy is log Σ exp(z) − E[z]: what is nearest to
/// it is the token whose logit is nearest to the expected one.
void Sampler::keep_typical(std::span<const float> logits_V) {
  double expected = 0;
  for (const int32_t v : kept_) expected += weights_V_[v] * logits_V[v];
  expected /= total_weight();
  const auto distance = [=](int32_t v) { return std::abs(logits_V[v] - expected); };
  keep_share(config_.typical_p,
             [=](int32_t a, int32_t b) { return distance(a) != distance(b) ? distance(a) < distance(b) : a < b; });
}

/// The fewest, best first, that together hold `share` of the weight of those left. Most tokens are too light to matter
/// and are dropped unsorted.
template <class Better>
void Sampler::keep_share(double share, Better better) {
  const double total = total_weight(), wanted = share * total;
  double spare = total - wanted;
  size_t before = 0;
  do {
    before = kept_.size();
    spare = drop_light(spare, better);
  } while (kept_.size() <= before / 2);

  std::sort(kept_.begin(), kept_.end(), better);
  double kept = 0;
  size_t count = 0;
  while (count < kept_.size() && kept < wanted) kept += weights_V_[kept_[count++]];
  kept_.resize(std::max<size_t>(count, 1));
}

/// Drops the worst tokens, as many as are surely lighter than `spare` together: those that come after every token of at
/// least the mean weight that would make `spare`. Returns what is left of it.
template <class Better>
double Sampler::drop_light(double spare, Better better) {
  const double light = spare / static_cast<double>(kept_.size());
  int32_t worst = -1;
  for (const int32_t v : kept_)
    if (weights_V_[v] >= light && (worst < 0 || better(worst, v))) worst = v;
  if (worst < 0) return spare;  // all weigh the same, and rounding made `light` more
  std::erase_if(kept_, [&](int32_t v) {
    const bool dropped = better(worst, v);
    if (dropped) spare -= weights_V_[v];
    return dropped;
  });
  return spare;
}

double Sampler::total_weight() const {
  double total = 0;
  for (const int32_t v : kept_) total += weights_V_[v];
  return total;
}

int64_t Sampler::pick() const {
  const Philox4 bits = philox(static_cast<uint64_t>(seed_), static_cast<uint64_t>(draws_));
  double left = (bits[0] + bits[1] * 0x1p32) * 0x1p-64 * total_weight();
  int64_t last = kept_.front();
  for (const int32_t v : kept_) {
    if ((left -= weights_V_[v]) < 0) return v;
    if (weights_V_[v] > 0) last = v;
  }
  return last;  // rounding left a remainder
}

int64_t Sampler::pick_by_surprise(int32_t best) {
  const double total = total_weight(), least = total * std::exp2(-mirostat_mu_);
  std::erase_if(kept_, [&](int32_t v) { return weights_V_[v] < least; });
  if (kept_.empty()) kept_.push_back(best);
  const int64_t token = pick();
  const double surprise = std::log2(total) - std::log2(weights_V_[token]);
  mirostat_mu_ -= config_.mirostat_eta * (surprise - config_.mirostat_tau);
  return token;
}

nlohmann::ordered_json Sampler::state() const {
  return {{"seed", seed_}, {"draws", draws_}, {"mirostat_mu", mirostat_mu_}, {"penalty_window", history_.state()}};
}

void Sampler::load_state(const nlohmann::ordered_json& state) {
  constexpr const char* kSource = "sampler";
  const auto seed = state.find("seed"), mu = state.find("mirostat_mu"), window = state.find("penalty_window");
  const auto fits = [](const auto& value) {  // an int64
    return value.is_number_integer() && (!value.is_number_unsigned() || value.template get<int64_t>() >= 0);
  };
  check(seed != state.end() && fits(*seed) && mu != state.end() && mu->is_number() &&
            std::isfinite(mu->get<double>()) && window != state.end(),
        "[{}] expected the state of a sampler, got {}", kSource, state.dump());
  const int64_t draws = count_at(state, "draws", kSource);
  constexpr int64_t kMost = int64_t{1} << 53;  // more are to come
  check(draws <= kMost, "[{}] expected at most {} draws, got {}", kSource, kMost, draws);
  history_.load_state(*window);
  seed_ = seed->get<int64_t>();
  draws_ = draws;
  mirostat_mu_ = mu->get<double>();
}

}  // namespace megalodon
