// Generation: a prompt is read, then one token at a time is drawn and read, in constant memory.
#pragma once

#include <functional>
#include <span>
#include <vector>

#include "infer/engine.h"
#include "infer/sampler.h"

namespace megalodon {

/// Called with a token of a stream, its index there, and the logits that it was predicted by.
using ObserveToken = std::function<void(int64_t index, int64_t token, std::span<const float> logits_V)>;

/// How many tokens can be drawn: those below `vocabulary` that the model has outputs for and can read.
int64_t drawable(const Model& model, int64_t vocabulary);

/// Continues a stream: reads the prompt, which may be empty only where the stream has read something before, then draws
/// `count` tokens (negative: without end), hands each to `emit` and reads it; after one for which emit returns false it
/// stops. Only the drawable() tokens are drawn: a model may have more outputs than its tokenizer has tokens, or
/// than it can read. `sampler` has read what the stream has; it reads the prompt. `observe`, where given, sees all
/// tokens of the prompt but the stream's first, and each that is drawn before `emit` does, with the logits of the
/// tokens that can be drawn. Memory does not grow with the position.
void generate(const Engine& engine, Stream& stream, const std::vector<int64_t>& prompt, int64_t count,
              int64_t vocabulary, Sampler& sampler, const std::function<bool(int64_t)>& emit,
              const ObserveToken& observe = {});

/// Prompts of different lengths in one batch, greedily, `count` tokens beyond each prompt. Returns prompt + generated
/// tokens for each.
std::vector<std::vector<int64_t>> generate_greedy(Model& model, const std::vector<std::vector<int64_t>>& prompts,
                                                  int64_t count);

}  // namespace megalodon
