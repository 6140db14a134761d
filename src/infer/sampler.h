// Sampling: one token from a row of logits.
//
// What is switched on is applied in this order:
//
//   1. logit bias           logit + bias; -inf bans the token
//   2. repetition penalty   logit / r where it is positive, logit · r elsewhere      (Keskar et al. 2019)
//   3. presence, frequency  logit − presence − frequency · count
//   4. temperature          p = softmax(logit / temperature); 0: the likeliest token, and nothing below happens
//   5. top-k                the k likeliest tokens                                    (Fan et al. 2018)
//   6. min-p                those of at least min_p times the likeliest's probability (Nguyen et al. 2024)
//   7. typical              the fewest tokens, nearest to the entropy by −log p first, that hold typical_p
//                           (Meister et al. 2022)
//   8. top-p                the fewest tokens, likeliest first, that hold top_p       (Holtzman et al. 2020)
//   9. the draw             among the tokens left, by their probabilities
//
// 2 and 3 see the tokens among the last penalty_last_n of prompt and output, and count those. 6 to 8 see the
// probabilities of the tokens that are left, made to sum to 1, and always leave one. Equal ones are ordered by index.
// Mirostat v2 (Basu et al. 2021) takes the place of 5 to 8: tokens of more than mu bits of surprise, −log2 p, are cut,
// but for the likeliest, and mu, 2 tau at first, becomes mu − eta · (s − tau) where s is the surprise of the token
// drawn, by its probability before the cut.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"
#include "infer/logprobs.h"
#include "infer/token_history.h"

namespace megalodon {

/// The order in a few lines, for the help of commands that sample.
inline constexpr const char* kSamplerHelp =
    "Sampling applies what is switched on in this order: logit-bias; repetition-penalty; presence-penalty and\n"
    "frequency-penalty; temperature; top-k; min-p; typical-p; top-p; then it draws among the tokens left. The\n"
    "cuts from min-p on see the probabilities of what is left, made to sum to 1. --mirostat takes the place of\n"
    "the four cuts. Temperature 0 takes the likeliest token after biases and penalties.";

struct SamplerConfig {
  double temperature = 0.8;  // 0: greedy
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // 1: off
  int64_t seed = 0;
  double min_p = 0.0;      // 0: off
  double typical_p = 1.0;  // 1: off
  double repetition_penalty = 1.0, presence_penalty = 0.0, frequency_penalty = 0.0;
  int64_t penalty_last_n = 64;               // -1: all
  std::vector<std::string> logit_bias = {};  // "ID=VALUE"
  bool mirostat = false;
  double mirostat_tau = 5.0, mirostat_eta = 0.1;  // bits; bits per bit

  void visit(config::Visitor& visitor);
  bool penalizes() const { return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0; }
};

/// Draws the tokens of one stream. Draw number t is a pure function of the configuration, t, the logits and the tokens
/// before: what other streams do has no part in it. Once its scratch memory has grown to the vocabulary, a draw
/// allocates nothing but the entry of a token that is new to the penalties' window.
class Sampler {
 public:
  /// Throws UsageError naming the field that is out of range.
  explicit Sampler(const SamplerConfig& config);

  /// Throws UsageError where the logit bias names a token that is none of these; sample() does too.
  void check_vocabulary(int64_t vocabulary) const;
  /// Tokens that precede the next draw without having been drawn here: a prompt. Penalties see them.
  void read(std::span<const int64_t> tokens);
  /// One row. The token drawn counts as read. Throws Error where a logit is NaN or +inf, or all are -inf.
  int64_t sample(std::span<const float> logits_V);
  int64_t sample(const Tensor& logits_V);

  /// What the draws so far leave behind: {"seed", "draws", "mirostat_mu", "penalty_window"}. A sampler of the same
  /// configuration that loads it goes on as this one would; its seed becomes the saved one.
  nlohmann::ordered_json state() const;
  /// Of the draws to come, whose numbers go on.
  void reseed(int64_t seed) { seed_ = seed; }
  /// Throws Error for what state() of this configuration cannot have made, and is unchanged then.
  void load_state(const nlohmann::ordered_json& state);

 private:
  std::span<const float> adjust(std::span<const float> logits_V);
  void keep_possible(std::span<const float> logits_V, double highest);
  void weigh(std::span<const float> logits_V, float highest);
  void keep_typical(std::span<const float> logits_V);
  template <class Better>
  void keep_share(double share, Better better);
  template <class Better>
  double drop_light(double spare, Better better);
  double total_weight() const;
  int64_t pick() const;
  int64_t pick_by_surprise(int32_t best);

  SamplerConfig config_;
  std::vector<std::pair<int64_t, float>> bias_;  // in order of tokens
  int64_t seed_ = 0, draws_ = 0;
  double mirostat_mu_ = 0;
  TokenHistory history_;

  // Scratch, for no draw to allocate.
  std::vector<float> adjusted_V_;
  std::vector<int32_t> kept_;      // the tokens that are left
  std::vector<double> weights_V_;  // theirs, by token: exp((logit − highest) / temperature)
};

}  // namespace megalodon
