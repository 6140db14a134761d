// Generation: prefill a prompt, then one token at a time, in constant memory.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "infer/sampler.h"
#include "models/model.h"

namespace megalodon {

inline constexpr int64_t kPrefillStretch = 2048;
/// Called with the hidden states of a stretch of tokens that begins at step `begin`.
using UseHidden = std::function<void(int64_t begin, const Tensor& hidden_BLD)>;

/// Feeds tokens into `carry` in stretches of at most `stretch` tokens; returns the logits [B,V] after the last one.
Tensor prefill(Model& model, const Tensor& tokens_BL, Carry& carry, int64_t stretch = kPrefillStretch,
               const UseHidden& use = {});

/// Called with a token of a stream, its index there, and the logits that it was predicted by.
using ObserveToken = std::function<void(int64_t index, int64_t token, std::span<const float> logits_V)>;

/// One stream: prompt (not empty), then `count` sampled tokens (negative: without end), each handed to `emit` as it is
/// drawn; emit returns false to stop. Only tokens below `vocabulary` are drawn: a model may have more outputs than its
/// tokenizer has tokens, or than it can read. `sampler` is a fresh one; it reads the prompt. `observe`, where given,
/// sees all tokens of the prompt but the first, and each that is drawn before `emit` does, with the logits of the
/// tokens that can be drawn. Memory does not grow with the position.
void generate(Model& model, const std::vector<int64_t>& prompt, int64_t count, int64_t vocabulary, Sampler& sampler,
              const std::function<bool(int64_t)>& emit, const ObserveToken& observe = {});

/// Prompts of different lengths in one batch, greedily, `count` tokens beyond each prompt. As the published generator
/// does it: all rows advance together from the shortest prompt on, a longer prompt's own tokens take precedence over
/// the argmax. Returns prompt + generated tokens for each.
std::vector<std::vector<int64_t>> generate_greedy(Model& model, const std::vector<std::vector<int64_t>>& prompts,
                                                  int64_t count);

}  // namespace megalodon
