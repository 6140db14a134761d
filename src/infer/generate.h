// Generation: prefill a prompt, then one token at a time, in constant memory.
#pragma once

#include <functional>
#include <vector>

#include "models/model.h"

namespace megalodon {

struct SamplerConfig {
  double temperature = 0.8;  // 0: greedy
  int64_t top_k = 0;         // 0: off
  double top_p = 1.0;        // 1: off
  int64_t seed = 0;
  void visit(config::Visitor& visitor);
};

/// Draws tokens from logits; a pure function of (config, draws so far).
class Sampler {
 public:
  explicit Sampler(const SamplerConfig& config);
  /// logits_V: one row.
  int64_t sample(const Tensor& logits_V);

 private:
  SamplerConfig config_;
  uint64_t draws_ = 0;
};

/// Feeds tokens into `carry` in stretches of at most `stretch` tokens; returns the logits [B,V] after the last one.
Tensor prefill(Model& model, const Tensor& tokens_BL, Carry& carry, int64_t stretch = 2048);

/// One stream: prompt (not empty), then `count` sampled tokens (negative: without end), each handed to `emit` as it is
/// drawn; emit returns false to stop. Only tokens below `vocabulary` are drawn: a model may have more outputs than its
/// tokenizer has tokens, or than it can read. Memory does not grow with the position.
void generate(Model& model, const std::vector<int64_t>& prompt, int64_t count, int64_t vocabulary, Sampler& sampler,
              const std::function<bool(int64_t)>& emit);

/// Prompts of different lengths in one batch, greedily, `count` tokens beyond each prompt. As the published generator
/// does it: all rows advance together from the shortest prompt on, a longer prompt's own tokens take precedence over
/// the argmax. Returns prompt + generated tokens for each.
std::vector<std::vector<int64_t>> generate_greedy(Model& model, const std::vector<std::vector<int64_t>>& prompts,
                                                  int64_t count);

}  // namespace megalodon
