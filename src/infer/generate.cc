#include "infer/generate.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon {

namespace {

/// Shows `observe` the tokens that a stretch of the prompt predicts. The logits of a whole stretch would take hundreds
/// of MiB: they are made for a few steps at a time.
void observe_stretch(const Model& model, const std::vector<int64_t>& prompt, int64_t begin, const Tensor& hidden_LD,
                     int64_t drawn, const ObserveToken& observe) {
  constexpr int64_t kSteps = 64;
  const int64_t predicted = std::min<int64_t>(hidden_LD.size(0), std::ssize(prompt) - 1 - begin);
  for (int64_t at = 0; at < predicted; at += kSteps) {
    const Tensor part_LD = hidden_LD.narrow(0, at, std::min(kSteps, predicted - at));
    const Tensor logits_LV = float_logits(model.output()(part_LD, nn::Precision::kFloat32).narrow(1, 0, drawn));
    for (int64_t i = 0; i < logits_LV.size(0); ++i)
      observe(begin + at + i + 1, prompt[begin + at + i + 1], span_of(logits_LV[i]));
  }
}

}  // namespace

Tensor prefill(Model& model, const Tensor& tokens_BL, Carry& carry, int64_t stretch, const UseHidden& use) {
  torch::NoGradGuard no_grad;
  const int64_t length = tokens_BL.size(1);
  check(length > 0, "[prefill] the prompt is empty; at least one token is needed to predict the next");
  Tensor hidden_BLD;
  for (int64_t at = 0; at < length; at += stretch) {
    hidden_BLD = model.hidden({tokens_BL.narrow(1, at, std::min(stretch, length - at)), {}}, carry);
    if (use) use(at, hidden_BLD);
  }
  // Only the last step's logits are wanted; those of a long prompt would be large.
  return model.output()(hidden_BLD.select(1, hidden_BLD.size(1) - 1), nn::Precision::kFloat32);
}

void generate(Model& model, const std::vector<int64_t>& prompt, int64_t count, int64_t vocabulary, Sampler& sampler,
              const std::function<bool(int64_t)>& emit, const ObserveToken& observe) {
  StreamCarry carry;
  const int64_t drawn = std::min({vocabulary, model.config().vocabulary(), model.config().outputs()});
  sampler.check_vocabulary(drawn);
  sampler.read(prompt);
  UseHidden use;
  if (observe)
    use = [&](int64_t begin, const Tensor& hidden_BLD) {
      observe_stretch(model, prompt, begin, hidden_BLD[0], drawn, observe);
    };
  Tensor logits_BV = prefill(model, torch::tensor(prompt, torch::kInt64).unsqueeze(0), carry, kPrefillStretch, use);
  for (int64_t i = 0; count < 0 || i < count; ++i) {
    const Tensor logits_V = float_logits(logits_BV[0].narrow(0, 0, drawn));
    const int64_t token = sampler.sample(span_of(logits_V));
    if (observe) observe(std::ssize(prompt) + i, token, span_of(logits_V));
    if (!emit(token)) return;
    if (i + 1 != count) logits_BV = prefill(model, torch::full({1, 1}, token, torch::kInt64), carry);
  }
}

std::vector<std::vector<int64_t>> generate_greedy(Model& model, const std::vector<std::vector<int64_t>>& prompts,
                                                  int64_t count) {
  check(!prompts.empty(), "[generate] no prompts");
  size_t shortest = prompts[0].size(), longest = 0;
  for (const auto& prompt : prompts) {
    shortest = std::min(shortest, prompt.size());
    longest = std::max(longest, prompt.size() + count);
  }
  StreamCarry carry;
  std::vector<std::vector<int64_t>> rows;
  for (const auto& prompt : prompts) rows.emplace_back(prompt.begin(), prompt.begin() + static_cast<int64_t>(shortest));
  std::vector<Tensor> heads;
  for (const auto& row : rows) heads.push_back(torch::tensor(row, torch::kInt64));
  Tensor tokens_BL = torch::stack(heads);
  for (size_t at = shortest; at < longest; ++at) {
    const Tensor best_B = prefill(model, tokens_BL, carry).argmax(-1);
    for (size_t b = 0; b < rows.size(); ++b)
      rows[b].push_back(at < prompts[b].size() ? prompts[b][at] : best_B[b].item<int64_t>());
    std::vector<int64_t> last;
    for (const auto& row : rows) last.push_back(row.back());
    tokens_BL = torch::tensor(last, torch::kInt64).unsqueeze(1);
  }
  for (size_t b = 0; b < rows.size(); ++b) rows[b].resize(prompts[b].size() + count);
  return rows;
}

}  // namespace megalodon
