#include "train/sample.h"

#include <algorithm>

#include "base/utf8.h"
#include "infer/generate.h"
#include "nn/evaluation_mode.h"

namespace megalodon {
namespace {

/// Text of a model that may still be untrained: control characters would play tricks on a terminal.
std::string without_controls(std::string text) {
  const auto is_control = [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  return text;
}

}  // namespace

std::string sample_text(Model& model, const data::Tokenizer& tokenizer, const std::string& prompt, int64_t tokens,
                        int64_t seed, const std::function<bool()>& stop) {
  const nn::EvaluationMode mode(model);
  const auto ids = tokenizer.encode(prompt);
  Sampler sampler({.seed = seed});
  std::string text = prompt;
  Utf8Stream utf8;
  const auto emit = [&](int64_t token) {
    text += utf8.push(tokenizer.decode(static_cast<int32_t>(token)));
    return !stop();
  };
  const Engine engine(model);
  Stream stream;
  generate(engine, stream, {ids.begin(), ids.end()}, tokens, tokenizer.vocabulary(), sampler, emit);
  text += utf8.finish();
  return without_controls(text);
}

}  // namespace megalodon
