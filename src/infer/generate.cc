#include "infer/generate.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon {

namespace {

/// Shows `observe` the tokens of the prompt that a pass over its steps from `begin` on predicts. The logits of a whole
/// pass would take hundreds of MiB: they are made for a few steps at a time.
void observe_pass(const Model& model, const std::vector<int64_t>& prompt, int64_t before, int64_t begin,
                  const Tensor& hidden_LD, int64_t drawn, const ObserveToken& observe) {
  constexpr int64_t kSteps = 64;
  const int64_t predicted = std::min<int64_t>(hidden_LD.size(0), std::ssize(prompt) - 1 - begin);
  for (int64_t at = 0; at < predicted; at += kSteps) {
    const Tensor part_LD = hidden_LD.narrow(0, at, std::min(kSteps, predicted - at));
    const Tensor logits_LV = float_logits(model.logits_of(part_LD, nn::Precision::kFloat32).narrow(1, 0, drawn));
    for (int64_t i = 0; i < logits_LV.size(0); ++i)
      observe(before + begin + at + i + 1, prompt[begin + at + i + 1], span_of(logits_LV[i]));
  }
}

}  // namespace

int64_t drawable(const Model& model, int64_t vocabulary) {
  return std::min({vocabulary, model.config().vocabulary(), model.config().outputs()});
}

void generate(const Engine& engine, Stream& stream, const std::vector<int64_t>& prompt, int64_t count,
              int64_t vocabulary, Sampler& sampler, const std::function<bool(int64_t)>& emit,
              const ObserveToken& observe) {
  check(!prompt.empty() || stream.tokens() > 0,
        "[generate] the prompt is empty; at least one token is needed to predict the next");
  const Model& model = engine.model();
  const int64_t drawn = drawable(model, vocabulary);
  sampler.check_vocabulary(drawn);
  sampler.read(prompt);
  const auto logits = [&] { return float_logits(stream.logits().narrow(0, 0, drawn)); };
  const int64_t before = stream.tokens();
  Engine::UseHidden use;
  if (observe)
    use = [&](int64_t begin, const Tensor& hidden_LD) {
      observe_pass(model, prompt, before, begin, hidden_LD, drawn, observe);
    };
  if (observe && before > 0 && !prompt.empty()) observe(before, prompt[0], span_of(logits()));
  engine.read(stream, prompt, use);
  for (int64_t i = 0; count < 0 || i < count; ++i) {
    const Tensor logits_V = logits();
    const int64_t token = sampler.sample(span_of(logits_V));
    if (observe) observe(stream.tokens(), token, span_of(logits_V));
    const bool more = emit(token);
    engine.read(stream, {&token, 1});
    if (!more) return;
  }
}

std::vector<std::vector<int64_t>> generate_greedy(Model& model, const std::vector<std::vector<int64_t>>& prompts,
                                                  int64_t count) {
  check(!prompts.empty(), "[generate] no prompts");
  const Engine engine(model);
  std::vector<std::vector<int64_t>> rows = prompts;
  std::vector<Stream> streams(prompts.size());
  std::vector<Stream*> batch;
  for (size_t b = 0; b < prompts.size(); ++b) {
    check(!prompts[b].empty(), "[generate] prompt {} is empty; at least one token is needed to predict the next", b);
    engine.read(streams[b], prompts[b]);
    batch.push_back(&streams[b]);
  }
  for (int64_t i = 0; i < count; ++i) {
    std::vector<int64_t> next;
    for (size_t b = 0; b < rows.size(); ++b) {
      next.push_back(streams[b].logits().argmax().item<int64_t>());
      rows[b].push_back(next.back());
    }
    if (i + 1 < count) engine.step(batch, next);
  }
  return rows;
}

}  // namespace megalodon
