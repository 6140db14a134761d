#include "infer/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>

#include "base/check.h"
#include "base/philox.h"

namespace megalodon {
namespace {

using Tokens = std::vector<int64_t>;
using Row = std::vector<double>;

constexpr double kNever = -std::numeric_limits<double>::infinity();

// What the header says, step by step and without any thought of speed: each step maps logits to logits, and what it
// cuts becomes -inf.

Row softmax(const Row& logits) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  Row p;
  for (const double logit : logits) p.push_back(std::exp(logit - highest));
  const double total = std::accumulate(p.begin(), p.end(), 0.0);
  for (double& x : p) x /= total;
  return p;
}

/// Cuts all but the fewest tokens, in the order of `key`, that hold `share`.
void keep_share(Row& logits, double share, const std::function<double(double p)>& key) {
  const Row p = softmax(logits);
  std::vector<size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(p[a]) < key(p[b]); });
  double kept = 0;
  for (const size_t v : order) {
    if (kept >= share) logits[v] = kNever;
    kept += p[v];
  }
}

struct Naive {
  SamplerConfig config;
  Tokens history;

  void step(const std::string& name, Row& logits) const {
    const SamplerConfig& c = config;
    std::map<int64_t, int> counts;
    for (size_t i = history.size() - std::min<size_t>(history.size(), c.penalty_last_n); i < history.size(); ++i)
      ++counts[history[i]];
    if (name == "bias") {
      for (const std::string& text : c.logit_bias)
        logits[std::stoi(text)] += std::stod(text.substr(text.find('=') + 1));
    } else if (name == "repetition") {
      for (const auto& [v, count] : counts)
        logits[v] = logits[v] > 0 ? logits[v] / c.repetition_penalty : logits[v] * c.repetition_penalty;
    } else if (name == "presence") {
      for (const auto& [v, count] : counts) logits[v] -= c.presence_penalty + c.frequency_penalty * count;
    } else if (name == "temperature") {
      for (double& logit : logits) logit /= c.temperature;
    } else if (name == "top-k" && c.top_k > 0) {
      Row sorted = logits;
      std::sort(sorted.rbegin(), sorted.rend());
      for (double& logit : logits)
        if (logit < sorted[c.top_k - 1]) logit = kNever;
    } else if (name == "min-p") {
      const Row p = softmax(logits);
      for (size_t v = 0; v < p.size(); ++v)
        if (p[v] < c.min_p * *std::max_element(p.begin(), p.end())) logits[v] = kNever;
    } else if (name == "typical" && c.typical_p < 1) {
      double entropy = 0;
      for (const double p : softmax(logits))
        if (p > 0) entropy -= p * std::log(p);
      keep_share(logits, c.typical_p, [=](double p) { return std::abs(-std::log(p) - entropy); });
    } else if (name == "top-p" && c.top_p < 1) {
      keep_share(logits, c.top_p, [](double p) { return -p; });
    }
  }

  Row probabilities(Row logits, const std::vector<std::string>& order = kOrder) const {
    for (const std::string& name : order) step(name, logits);
    return softmax(logits);
  }

  inline static const std::vector<std::string> kOrder = {"bias",  "repetition", "presence", "temperature",
                                                         "top-k", "min-p",      "typical",  "top-p"};
};

const std::vector<float> kLogits = {0.3f, 2.0f, -1.0f, 1.4f, 0.9f, 1.9f, -0.4f, 0.1f, 1.1f, -3.0f};
const Row kRow(kLogits.begin(), kLogits.end());
constexpr int kDraws = 100000;

/// First draws, from as many seeds.
std::vector<int> count_over_seeds(SamplerConfig config, const std::vector<float>& logits, const Tokens& history = {}) {
  std::vector<int> counts(logits.size());
  for (config.seed = 0; config.seed < kDraws; ++config.seed) {
    Sampler sampler(config);
    sampler.read(history);
    ++counts[sampler.sample(logits)];
  }
  return counts;
}

/// Draws of one stream.
std::vector<int> count_over_draws(const SamplerConfig& config, const std::vector<float>& logits) {
  std::vector<int> counts(logits.size());
  Sampler sampler(config);
  for (int i = 0; i < kDraws; ++i) ++counts[sampler.sample(logits)];
  return counts;
}

/// How unlikely counts are under the probabilities: by Wilson and Hilferty's cube root, chi-square in units of the
/// standard normal. Infinite where what cannot be was seen.
double surprise(const std::vector<int>& counts, const Row& probabilities) {
  double chi_square = 0, degrees = -1;
  for (size_t v = 0; v < counts.size(); ++v) {
    const double expected = probabilities[v] * kDraws;
    if (expected == 0 && counts[v] > 0) return std::numeric_limits<double>::infinity();
    if (expected == 0) continue;
    chi_square += (counts[v] - expected) * (counts[v] - expected) / expected;
    ++degrees;
  }
  if (degrees == 0) return 0;
  const double spread = 2 / (9 * degrees);
  return (std::cbrt(chi_square / degrees) - (1 - spread)) / std::sqrt(spread);
}

constexpr double kFits = 4, kDiffers = 10;  // normal deviates: the seeds are fixed, and these leave room between them

std::vector<SamplerConfig> single_cuts() {
  return {{.temperature = 1},
          {.temperature = 0.8},
          {.temperature = 0.86},
          {.temperature = 3},
          {.temperature = 0.8, .top_k = 4},
          {.temperature = 0.8, .top_k = 5},
          {.temperature = 0.8, .min_p = 0.1},
          {.temperature = 0.8, .min_p = 0.35},
          {.temperature = 0.8, .typical_p = 0.3},
          {.temperature = 0.8, .typical_p = 0.5},
          {.temperature = 0.8, .top_p = 0.5},
          {.temperature = 0.8, .top_p = 0.95},
          {.temperature = 0.8, .logit_bias = {"1=-inf", "9=3.5"}}};
}

TEST(Sampler, DrawsFollowTheExactProbabilitiesAndNoOthers) {
  const auto configs = single_cuts();
  for (size_t i = 0; i < configs.size(); ++i) {
    const auto over_draws = count_over_draws(configs[i], kLogits), over_seeds = count_over_seeds(configs[i], kLogits);
    for (size_t j = 0; j < configs.size(); ++j) {
      const Row expected = Naive{configs[j], {}}.probabilities(kRow);
      if (i == j) {
        EXPECT_LT(surprise(over_draws, expected), kFits) << i;
        EXPECT_LT(surprise(over_seeds, expected), kFits) << i;
      } else {
        EXPECT_GT(surprise(over_draws, expected), kDiffers) << i << " as " << j;
      }
    }
  }
}

TEST(Sampler, PenaltiesSeeTheLastTokens) {
  const Tokens history = {9, 9, 1, 3, 1, 6, 1, 2};
  const std::vector<SamplerConfig> configs = {
      {.temperature = 1, .repetition_penalty = 1.5},
      {.temperature = 1, .repetition_penalty = 1.5, .penalty_last_n = 4},
      {.temperature = 1, .repetition_penalty = 0.7, .penalty_last_n = 4},
      {.temperature = 1, .presence_penalty = 0.5, .penalty_last_n = 4},
      {.temperature = 1, .presence_penalty = -0.5, .penalty_last_n = 4},
      {.temperature = 1, .frequency_penalty = 0.5, .penalty_last_n = 4},
      {.temperature = 1, .frequency_penalty = 0.5, .penalty_last_n = 6},
      {.temperature = 1, .repetition_penalty = 1.5, .penalty_last_n = 0},
      {.temperature = 1, .repetition_penalty = 1.2, .presence_penalty = 0.3, .frequency_penalty = 0.2}};
  for (size_t i = 0; i < configs.size(); ++i) {
    const auto counts = count_over_seeds(configs[i], kLogits, history);
    for (size_t j = 0; j < configs.size(); ++j) {
      const double deviates = surprise(counts, Naive{configs[j], history}.probabilities(kRow));
      if (i == j)
        EXPECT_LT(deviates, kFits) << i;
      else
        EXPECT_GT(deviates, kDiffers) << i << " as " << j;
    }
    SamplerConfig all = configs[i];
    if (all.penalty_last_n > static_cast<int64_t>(history.size())) {
      all.penalty_last_n = -1;
      EXPECT_EQ(count_over_seeds(all, kLogits, history), counts) << i;
    }
  }
}

/// Two neighbours of the order that do not commute.
struct Neighbours {
  std::string first, second;
  SamplerConfig config;
};

TEST(Sampler, StepsApplyInTheOrderOfTheHeader) {
  const Tokens history = {1, 1, 2, 9};
  const std::vector<Neighbours> cases = {
      {"bias", "repetition", {.temperature = 1, .repetition_penalty = 2, .logit_bias = {"1=1.5"}}},
      {"repetition", "presence", {.temperature = 1, .repetition_penalty = 2, .presence_penalty = 1}},
      {"presence", "temperature", {.temperature = 2, .presence_penalty = 1, .frequency_penalty = 0.5}},
      {"temperature", "min-p", {.temperature = 2, .min_p = 0.4}},
      {"temperature", "typical", {.temperature = 2, .typical_p = 0.5}},
      {"temperature", "top-p", {.temperature = 2, .top_p = 0.6}},
      {"top-k", "typical", {.temperature = 1, .top_k = 6, .typical_p = 0.5}},
      {"top-k", "top-p", {.temperature = 1, .top_k = 4, .top_p = 0.7}},
      {"min-p", "typical", {.temperature = 1, .min_p = 0.3, .typical_p = 0.5}},
      {"min-p", "top-p", {.temperature = 1, .top_p = 0.8, .min_p = 0.3}},
      {"typical", "top-p", {.temperature = 1, .top_p = 0.6, .typical_p = 0.6}}};
  for (const auto& [first, second, config] : cases) {
    const Naive naive{config, history};
    const auto counts = count_over_seeds(config, kLogits, history);
    EXPECT_LT(surprise(counts, naive.probabilities(kRow)), kFits) << first << ", " << second;
    auto swapped = Naive::kOrder;
    std::erase(swapped, first);
    swapped.insert(std::find(swapped.begin(), swapped.end(), second) + 1, first);
    EXPECT_GT(surprise(counts, naive.probabilities(kRow, swapped)), kDiffers) << second << ", " << first;
  }
}

TEST(Sampler, EverythingAtOnceFollowsTheExactProbabilities) {
  const SamplerConfig config = {.temperature = 1.3,
                                .top_k = 7,
                                .top_p = 0.85,
                                .min_p = 0.1,
                                .typical_p = 0.9,
                                .repetition_penalty = 1.1,
                                .presence_penalty = 0.2,
                                .frequency_penalty = 0.1,
                                .penalty_last_n = 3,
                                .logit_bias = {"5=-inf", "7=1"}};
  const Tokens history = {8, 1, 1, 3};
  const Row expected = Naive{config, history}.probabilities(kRow);
  EXPECT_GE(std::count_if(expected.begin(), expected.end(), [](double p) { return p > 0; }), 3);
  EXPECT_LT(surprise(count_over_seeds(config, kLogits, history), expected), kFits);
}

Tokens draw(Sampler& sampler, const std::vector<float>& logits, int count) {
  Tokens tokens;
  for (int i = 0; i < count; ++i) tokens.push_back(sampler.sample(logits));
  return tokens;
}

Tokens draw(const SamplerConfig& config, const std::vector<float>& logits, int count, const Tokens& prompt = {}) {
  Sampler sampler(config);
  sampler.read(prompt);
  return draw(sampler, logits, count);
}

TEST(Sampler, PenaltiesByHand) {
  // Each time that token 0 or 1 occurs costs it 0.15: 1.0 0.9, 0.85 0.9, 0.85 0.75, 0.7 0.75, ...
  EXPECT_EQ(draw({.temperature = 0, .frequency_penalty = 0.15}, {1.0f, 0.9f, 0.5f}, 7), (Tokens{0, 1, 0, 1, 0, 1, 0}));
  // Once only, however often: 0.7 0.9 0.5, 0.7 0.6 0.5, and the same ever after.
  EXPECT_EQ(draw({.temperature = 0, .presence_penalty = 0.3}, {1.0f, 0.9f, 0.5f}, 5), (Tokens{0, 1, 0, 0, 0}));
  // 2 becomes 1 and loses to 1.1, which becomes 0.55; -1 becomes -2 and loses to -1.5, which becomes -3.
  const SamplerConfig halve = {.temperature = 0, .repetition_penalty = 2};
  EXPECT_EQ(draw(halve, {2.0f, 1.1f}, 4), (Tokens{0, 1, 0, 0}));
  EXPECT_EQ(draw(halve, {-1.0f, -1.5f}, 4), (Tokens{0, 1, 0, 0}));
  // What fell out of the window is as new.
  const SamplerConfig two = {.temperature = 0, .presence_penalty = 5, .penalty_last_n = 2};
  EXPECT_EQ(draw(two, {3.0f, 2.0f, 1.0f, 0.0f}, 7), (Tokens{0, 1, 2, 0, 1, 2, 0}));
  EXPECT_EQ(draw(two, {3.0f, 2.0f, 1.0f, 0.0f}, 4, {0, 0, 3, 1}), (Tokens{0, 2, 1, 0}));
  // A prompt may hold tokens that have no logit.
  EXPECT_EQ(draw(two, {3.0f, 2.0f}, 1, {7, 0}), (Tokens{1}));
}

TEST(Sampler, BiasByHand) {
  const std::vector<float> logits = {1.0f, 0.5f, 0.0f};
  EXPECT_EQ(draw({.temperature = 0, .logit_bias = {"2=1.25", "1=0.6"}}, logits, 1), (Tokens{2}));
  EXPECT_EQ(draw({.temperature = 0, .logit_bias = {"0=-inf"}}, logits, 1), (Tokens{1}));
  // Banned tokens are not drawn even where a cut asks for more tokens than are left.
  const SamplerConfig banned = {.temperature = 50, .top_k = 2, .logit_bias = {"0=-inf", "2=-inf"}};
  EXPECT_EQ(draw(banned, logits, 200), Tokens(200, 1));
}

TEST(Sampler, EqualLogitsAreOrderedByIndex) {
  const std::vector<float> equal(100, 0.5f);
  EXPECT_EQ(draw({.temperature = 0}, equal, 1), (Tokens{0}));
  for (const SamplerConfig& config :
       {SamplerConfig{.temperature = 1, .top_k = 3}, SamplerConfig{.temperature = 1, .top_p = 0.025},
        SamplerConfig{.temperature = 1, .typical_p = 0.025}}) {
    Tokens drawn = draw(config, equal, 500);
    std::sort(drawn.begin(), drawn.end());
    drawn.erase(std::unique(drawn.begin(), drawn.end()), drawn.end());
    EXPECT_EQ(drawn, (Tokens{0, 1, 2}));
  }
}

TEST(Sampler, CutsLeaveOneToken) {
  for (const SamplerConfig& config :
       {SamplerConfig{.temperature = 1, .top_k = 1}, SamplerConfig{.temperature = 1, .top_p = 1e-9},
        SamplerConfig{.temperature = 1, .min_p = 1}, SamplerConfig{.temperature = 1e-300}})
    EXPECT_EQ(draw(config, kLogits, 100), Tokens(100, 1));
  EXPECT_EQ(draw({.temperature = 1, .typical_p = 1e-9}, {3.0f, 1.0f, 1.1f, -2.0f, -2.0f, -2.0f}, 50), Tokens(50, 0));
}

// Of probabilities 1/2, 1/4, 1/8, 1/8 the surprises are 1, 2, 3 and 3 bits.
const std::vector<float> kBits = {0.0f, -0.6931472f, -1.3862944f, -1.3862944f};

double mu_of(const Sampler& sampler) {
  return sampler.state()["mirostat_mu"];
}

TEST(Sampler, MirostatCutsBySurpriseAndSteersItsBound) {
  const SamplerConfig config = {.temperature = 1, .mirostat = true, .mirostat_tau = 1.4, .mirostat_eta = 0.5};
  Sampler sampler(config);
  double mu = 2.8;
  std::map<int64_t, int> seen;
  for (int i = 0; i < 200; ++i) {
    ASSERT_NEAR(mu_of(sampler), mu, 1e-5) << i;
    const int64_t token = sampler.sample(kBits);
    const double surprise = token < 2 ? 1 + static_cast<double>(token) : 3;
    EXPECT_TRUE(surprise <= mu + 1e-5 || token == 0) << i;
    mu -= 0.5 * (surprise - 1.4);
    ++seen[token];
  }
  EXPECT_EQ(seen.size(), 4u) << "a bound that never moved would have cut the last two";
}

TEST(Sampler, MirostatDrawsAmongWhatItsBoundLeaves) {
  const std::map<double, Row> expected = {
      {0.1, {1, 0, 0, 0}}, {1.2, {2.0 / 3, 1.0 / 3, 0, 0}}, {2, {0.5, 0.25, 0.125, 0.125}}};  // mu is 2 tau at first
  for (const auto& [tau, probabilities] : expected) {
    const auto counts = count_over_seeds({.temperature = 1, .mirostat = true, .mirostat_tau = tau}, kBits);
    for (const auto& [other, others] : expected) {
      if (other == tau)
        EXPECT_LT(surprise(counts, probabilities), kFits) << tau;
      else
        EXPECT_GT(surprise(counts, others), kDiffers) << tau << " as " << other;
    }
  }
}

/// As it was done with a sort of the whole vocabulary.
int64_t draw_by_sorting(const SamplerConfig& config, uint64_t draw, const std::vector<float>& logits) {
  std::vector<int64_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  if (config.top_k > 0 || config.top_p < 1)
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return logits[a] > logits[b]; });
  if (config.top_k > 0) order.resize(config.top_k);
  const float highest = *std::max_element(logits.begin(), logits.end());
  Row weights;
  for (const int64_t v : order) weights.push_back(std::exp((logits[v] - highest) / config.temperature));
  if (config.top_p < 1) {
    const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
    double kept = 0;
    size_t count = 0;
    while (count < weights.size() && kept < config.top_p * total) kept += weights[count++];
    weights.resize(count);
  }
  const Philox4 bits = philox(config.seed, draw);
  double left = (bits[0] + bits[1] * 0x1p32) * 0x1p-64 * std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t i = 0;
  while (i + 1 < weights.size() && (left -= weights[i]) >= 0) ++i;
  return order[i];
}

TEST(Sampler, ALargeVocabularyIsDrawnFromAsIfItWereSorted) {
  std::vector<float> logits(5000);
  for (size_t v = 0; v < logits.size(); ++v)
    logits[v] = std::round(20 * static_cast<float>(philox_uniform(philox(1, v)[0]))) / 4;  // with many ties
  for (const SamplerConfig& config :
       {SamplerConfig{.temperature = 0.8, .seed = 3}, SamplerConfig{.temperature = 0.8, .top_k = 40, .seed = 4},
        SamplerConfig{.temperature = 1.5, .top_k = 3000, .seed = 5},
        SamplerConfig{.temperature = 0.2, .top_p = 0.05, .seed = 6},
        SamplerConfig{.temperature = 1.5, .top_p = 0.95, .seed = 7},
        SamplerConfig{.temperature = 1, .top_k = 600, .top_p = 0.9, .seed = 8}}) {
    Tokens expected;
    for (int i = 0; i < 30; ++i) expected.push_back(draw_by_sorting(config, i, logits));
    EXPECT_EQ(draw(config, logits, 30), expected) << config.seed;
  }
}

TEST(Sampler, ASeedsDrawsStayWhatTheyAre) {
  EXPECT_EQ(draw({.temperature = 0.8, .seed = 7}, kLogits, 12), (Tokens{5, 5, 0, 1, 8, 1, 3, 3, 8, 0, 8, 7}));
  EXPECT_EQ(draw({.temperature = 0.8, .top_k = 8, .top_p = 0.9, .seed = 7}, kLogits, 12),
            (Tokens{3, 3, 1, 1, 4, 1, 5, 5, 4, 1, 4, 8}));
}

/// Everything that leaves a trace in the state.
SamplerConfig with_state(int64_t last_n) {
  return {.temperature = 1.1,
          .seed = -5,
          .repetition_penalty = 1.2,
          .frequency_penalty = 0.3,
          .penalty_last_n = last_n,
          .mirostat = true,
          .mirostat_tau = 2.7};
}

TEST(Sampler, GoesOnFromASavedState) {
  for (const int64_t last_n : {-1, 3, 1000}) {
    Sampler whole(with_state(last_n));
    whole.read(Tokens{4, 4, 1});
    draw(whole, kLogits, 25);
    const auto saved = nlohmann::ordered_json::parse(whole.state().dump());
    SamplerConfig config = with_state(last_n);
    config.seed = 99;  // the saved one counts
    Sampler loaded(config);
    draw(loaded, kLogits, 3);
    loaded.load_state(saved);
    EXPECT_EQ(loaded.state(), saved);
    EXPECT_EQ(draw(loaded, kLogits, 100), draw(whole, kLogits, 100)) << last_n;
    EXPECT_EQ(loaded.state(), whole.state());

    // Every part counts.
    const auto next = [&](const char* key, nlohmann::ordered_json value) {
      auto changed = saved;
      changed[key] = std::move(value);
      loaded.load_state(changed);
      return draw(loaded, kLogits, 100);
    };
    const Tokens same = next("draws", 25);
    EXPECT_NE(next("draws", 26), same);
    EXPECT_NE(next("seed", 5), same);
    EXPECT_NE(next("mirostat_mu", 0.5), same);
    EXPECT_NE(next("penalty_window", nlohmann::ordered_json::array()), same);
    const Tokens reseeded = next("seed", 5);
    loaded.load_state(saved);
    loaded.reseed(5);
    EXPECT_EQ(draw(loaded, kLogits, 100), reseeded);
  }
}

TEST(Sampler, StateTellsTheWindow) {
  Sampler last({.temperature = 0, .presence_penalty = 0.1, .penalty_last_n = 3});
  last.read(Tokens{5, 6, 5, 7});
  last.sample(kLogits);
  EXPECT_EQ(last.state().dump(), R"({"seed":0,"draws":1,"mirostat_mu":10.0,"penalty_window":[5,7,1]})");
  Sampler all({.temperature = 0, .presence_penalty = 0.1, .penalty_last_n = -1});
  all.read(Tokens{5, 6, 5, 7});
  EXPECT_EQ(all.state()["penalty_window"].dump(), "[[5,2],[6,1],[7,1]]");
  Sampler off({.temperature = 0});
  off.read(Tokens{5, 6, 5, 7});
  EXPECT_EQ(off.state()["penalty_window"].dump(), "[]") << "nothing asks for it";
}

TEST(Sampler, RefusesAStateThatIsNone) {
  for (const int64_t last_n : {-1, 3}) {
    Sampler sampler(with_state(last_n));
    draw(sampler, kLogits, 5);
    const auto good = sampler.state();
    for (const auto& [key, value] : std::vector<std::pair<std::string, std::string>>{
             {"seed", "null"},
             {"seed", "1.5"},
             {"seed", "9223372036854775808"},
             {"draws", "-1"},
             {"draws", "\"5\""},
             {"mirostat_mu", "\"2\""},
             {"mirostat_mu", "null"},
             {"penalty_window", "5"},
             {"penalty_window", last_n < 0 ? "[1,2]" : "[[1,2]]"},
             {"penalty_window", last_n < 0 ? "[[2,1],[1,1]]" : "[1,2,3,4]"},
             {"penalty_window", last_n < 0 ? "[[1,0]]" : "[-1]"},
             {"penalty_window", last_n < 0 ? "[[1,1],[1,1]]" : "[1.5]"}}) {
      auto bad = good;
      bad[key] = nlohmann::ordered_json::parse(value);
      EXPECT_THROW(sampler.load_state(bad), Error) << key << " " << value;
      bad.erase(key);
      EXPECT_THROW(sampler.load_state(bad), Error) << "no " << key;
      EXPECT_EQ(sampler.state(), good);
    }
    EXPECT_THROW(sampler.load_state(nlohmann::ordered_json::array()), Error);
  }
}

TEST(Sampler, NeighboursInABatchChangeNothing) {
  const std::vector<float> other(50, 0.0f);
  Sampler mine(with_state(8)), neighbour({.temperature = 2, .seed = 8});
  Tokens drawn;
  for (int i = 0; i < 50; ++i) {
    if (i % 3 != 1) neighbour.sample(other);
    drawn.push_back(mine.sample(kLogits));
    if (i % 2 == 0) neighbour.sample(kLogits);
  }
  EXPECT_EQ(drawn, draw(with_state(8), kLogits, 50));
  SamplerConfig other_seed = with_state(8);
  other_seed.seed = 6;
  EXPECT_NE(drawn, draw(other_seed, kLogits, 50));
}

TEST(Sampler, TakesTensorsOfAnyTypeAndRefusesWhatIsNotFinite) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.sample(torch::tensor(kRow, torch::kFloat64)), 1);
  EXPECT_EQ(sampler.sample(torch::tensor(kRow).to(torch::kBFloat16)), 1);
  EXPECT_EQ(sampler.sample(torch::tensor(kRow).unsqueeze(1).expand({10, 3}).select(1, 1)), 1);
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const auto sample = [&](const std::vector<float>& logits) { return sampler.sample(logits); };
  EXPECT_EQ(sample({-inf, -2.0f, -inf}), 1);
  for (const std::vector<float>& bad : {std::vector<float>{nan, 1}, {1, nan}, {1, inf}, {-inf, -inf}, {}})
    EXPECT_THROW(sample(bad), Error);
  Sampler banned({.logit_bias = {"0=-inf"}});
  EXPECT_THROW(banned.sample(std::vector<float>{1, -inf}), Error);
}

TEST(Sampler, RefusesSettingsOutOfRange) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<std::string, SamplerConfig>> cases = {
      {"temperature", {.temperature = -1}},
      {"temperature", {.temperature = nan}},
      {"temperature", {.temperature = inf}},
      {"top-k", {.top_k = -1}},
      {"top-p", {.top_p = 0}},
      {"top-p", {.top_p = 1.5}},
      {"min-p", {.min_p = -0.1}},
      {"min-p", {.min_p = 1.1}},
      {"typical-p", {.typical_p = 0}},
      {"typical-p", {.typical_p = nan}},
      {"repetition-penalty", {.repetition_penalty = 0}},
      {"repetition-penalty", {.repetition_penalty = inf}},
      {"presence-penalty", {.presence_penalty = nan}},
      {"frequency-penalty", {.frequency_penalty = inf}},
      {"penalty-last-n", {.penalty_last_n = -2}},
      {"mirostat-tau", {.mirostat_tau = 0}},
      {"mirostat-eta", {.mirostat_eta = -1}},
      {"mirostat", {.temperature = 0, .mirostat = true}},
      {"mirostat", {.top_k = 5, .mirostat = true}},
      {"mirostat", {.top_p = 0.5, .mirostat = true}},
      {"mirostat", {.min_p = 0.5, .mirostat = true}},
      {"mirostat", {.typical_p = 0.5, .mirostat = true}},
      {"logit-bias", {.logit_bias = {"1=1", "2=1", "1=2"}}}};
  const auto message = [](const SamplerConfig& config) -> std::string {
    try {
      Sampler sampler(config);
    } catch (const UsageError& error) {
      return error.what();
    }
    return "accepted";
  };
  for (const auto& [name, config] : cases) EXPECT_TRUE(message(config).starts_with("[" + name + "] ")) << name;
  for (const char* text :
       {"", "5", "=1", "5=", "-1=1", "x=1", "5=x", "5=1x", "5 =1", "5=inf", "5=nan", "5=1e99", "5=1=2"})
    EXPECT_TRUE(message({.logit_bias = {text}}).ends_with(fmt::format("got '{}'", text))) << text;
  Sampler beyond({.logit_bias = {"10=1"}});
  EXPECT_THROW(beyond.sample(kLogits), UsageError);
  EXPECT_THROW(beyond.check_vocabulary(10), UsageError);
  EXPECT_NO_THROW(beyond.check_vocabulary(11));
}

TEST(Logprobs, AreThoseOfTheSoftmax) {
  const float inf = std::numeric_limits<float>::infinity();
  const std::vector<float> logits = {500.0f, 502.0f, -inf, 502.0f, 499.0f};
  const Row p = softmax(Row(logits.begin(), logits.end()));
  const Logprobs all = logprobs(logits, 4, 10);
  EXPECT_NEAR(all.logprob, std::log(p[4]), 1e-12);
  ASSERT_EQ(all.top.size(), 4u) << "what is impossible is no alternative";
  Tokens order;
  for (const TokenLogprob& alternative : all.top) {
    order.push_back(alternative.token);
    EXPECT_NEAR(alternative.logprob, std::log(p[alternative.token]), 1e-12);
  }
  EXPECT_EQ(order, (Tokens{1, 3, 0, 4}));
  EXPECT_EQ(logprobs(logits, 4, 1).top.size(), 1u);
  EXPECT_TRUE(logprobs(logits, 4, 0).top.empty());
  EXPECT_EQ(logprobs(logits, 2, 0).logprob, -inf);
  EXPECT_THROW(logprobs(logits, 5, 0), Error);
  EXPECT_THROW(logprobs(logits, -1, 0), Error);
  EXPECT_THROW(logprobs(std::vector<float>{1, inf}, 0, 0), Error);
}

}  // namespace
}  // namespace megalodon
