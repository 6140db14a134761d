#include "infer/generate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "base/philox.h"

namespace megalodon {

void SamplerConfig::visit(config::Visitor& v) {
  v.field("temperature", temperature, "0 picks the likeliest token; higher is more varied");
  v.field("top_k", top_k, "sample among the k likeliest tokens only; 0: all");
  v.field("top_p", top_p, "sample among the likeliest tokens that together hold this probability; 1: all");
  v.field("seed", seed, "of the random numbers; the same seed gives the same text");
}

Sampler::Sampler(const SamplerConfig& config) : config_(config) {
  if (!(config.temperature >= 0)) fail_usage("[temperature] expected 0 or more, got {}", config.temperature);
  if (config.top_k < 0) fail_usage("[top-k] expected 0 or more, got {}", config.top_k);
  if (!(config.top_p > 0 && config.top_p <= 1)) fail_usage("[top-p] expected a number in (0, 1], got {}", config.top_p);
}

int64_t Sampler::sample(const Tensor& logits_V) {
  const Tensor row = logits_V.detach().to(torch::kCPU, torch::kFloat32).contiguous();
  const float* logits = row.data_ptr<float>();
  const int64_t vocabulary = row.numel();
  const float highest = *std::max_element(logits, logits + vocabulary);
  check(std::isfinite(highest), "[sample] the model's logits are not finite");
  if (config_.temperature == 0) return std::max_element(logits, logits + vocabulary) - logits;

  std::vector<int64_t> order(vocabulary);
  std::iota(order.begin(), order.end(), 0);
  const bool cut = config_.top_p < 1 || (config_.top_k > 0 && config_.top_k < vocabulary);
  if (cut)  // ties are broken by index, so that the draw does not depend on the sorting algorithm
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; });
  if (config_.top_k > 0 && config_.top_k < vocabulary) order.resize(config_.top_k);

  std::vector<double> weights(order.size());
  for (size_t i = 0; i < order.size(); ++i) weights[i] = std::exp((logits[order[i]] - highest) / config_.temperature);
  double total = std::accumulate(weights.begin(), weights.end(), 0.0);
  if (config_.top_p < 1) {
    double kept = 0;
    size_t count = 0;
    while (count < weights.size() && kept < config_.top_p * total) kept += weights[count++];
    weights.resize(std::max<size_t>(count, 1));
    total = std::accumulate(weights.begin(), weights.end(), 0.0);
  }

  const Philox4 bits = philox(static_cast<uint64_t>(config_.seed), draws_++);
  double left = (bits[0] + bits[1] * 0x1p32) * 0x1p-64 * total;
  for (size_t i = 0; i < weights.size(); ++i)
    if ((left -= weights[i]) < 0) return order[i];
  return order[weights.size() - 1];  // rounding left a remainder
}

Tensor prefill(Model& model, const Tensor& tokens_BL, Carry& carry, int64_t stretch) {
  torch::NoGradGuard no_grad;
  const int64_t length = tokens_BL.size(1);
  check(length > 0, "[prefill] the prompt is empty; at least one token is needed to predict the next");
  Tensor hidden_BLD;
  for (int64_t at = 0; at < length; at += stretch)
    hidden_BLD = model.hidden({tokens_BL.narrow(1, at, std::min(stretch, length - at)), {}}, carry);
  // Only the last step's logits are wanted; those of a long prompt would be large.
  return model.output()(hidden_BLD.select(1, hidden_BLD.size(1) - 1), nn::Precision::kFloat32);
}

void generate(Model& model, const std::vector<int64_t>& prompt, int64_t count, int64_t vocabulary, Sampler& sampler,
              const std::function<bool(int64_t)>& emit) {
  StreamCarry carry;
  const int64_t drawn = std::min({vocabulary, model.config().vocabulary(), model.config().outputs()});
  Tensor tokens = torch::tensor(prompt, torch::kInt64).unsqueeze(0);
  for (int64_t i = 0; count < 0 || i < count; ++i) {
    const int64_t token = sampler.sample(prefill(model, tokens, carry)[0].narrow(0, 0, drawn));
    if (!emit(token)) return;
    tokens = torch::full({1, 1}, token, torch::kInt64);
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
