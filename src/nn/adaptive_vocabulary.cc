#include "nn/adaptive_vocabulary.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/check.h"
#include "base/philox.h"
#include "nn/dropout.h"
#include "nn/init.h"
#include "nn/parameters.h"
#include "ops/linear_cross_entropy/linear_cross_entropy.h"

namespace megalodon::nn {

int64_t AdaptiveVocabulary::width(int64_t model_dim, int64_t factor, int64_t band) {
  int64_t width = model_dim;
  for (int64_t i = 0; i < band; ++i) width /= factor;
  return width;
}

AdaptiveVocabulary::AdaptiveVocabulary(torch::nn::Module& module, const std::vector<int64_t>& cutoffs,
                                       int64_t vocabulary, int64_t model_dim, int64_t factor) {
  begin_ = {0};
  begin_.insert(begin_.end(), cutoffs.begin(), cutoffs.end());
  begin_.push_back(vocabulary);
  for (int64_t i = 0; i < bands(); ++i) {
    check(begin_[i] < begin_[i + 1] && width(model_dim, factor, i) > 0,
          "[adaptive_vocabulary] band {} is empty: from {} to {}, of {} features", i, begin_[i], begin_[i + 1],
          width(model_dim, factor, i));
    const int64_t F = width(model_dim, factor, i);
    map_.emplace_back(register_at(module, fmt::format("embed.map_{}.weight", i), {model_dim, F}));
    if (i > 0)
      weight_.emplace_back(register_at(module, fmt::format("embed.band_{}.weight", i), {begin_[i + 1] - begin_[i], F}));
  }
  classes_ = Linear(register_at(module, "output.classes.weight", {bands() - 1, model_dim}));
}

std::vector<Linear*> AdaptiveVocabulary::linears() {
  std::vector<Linear*> list;
  for (std::vector<Linear>* of : {&map_, &weight_})
    for (Linear& linear : *of) list.push_back(&linear);
  list.push_back(&classes_);
  return list;
}

int64_t AdaptiveVocabulary::parameters() const {
  int64_t total = begin_[1] * classes_.weight.size(1) + classes_.weight.numel();
  for (const std::vector<Linear>* of : {&map_, &weight_})
    for (const Linear& linear : *of) total += linear.weight.numel();
  return total;
}

void AdaptiveVocabulary::check_tokens(const Tensor& tokens, const char* what) const {
  if (tokens.is_cuda() || tokens.numel() == 0) return;  // a look at numbers of a GPU would wait for it
  check(tokens.scalar_type() == torch::kInt64, "[adaptive_vocabulary] expected {} in int64, got {}", what,
        toString(tokens.scalar_type()));
  const Tensor dense = tokens.contiguous();
  const auto* number = dense.data_ptr<int64_t>();
  const auto [least, most] = std::minmax_element(number, number + dense.numel());
  check(*least >= 0 && *most < begin_.back(), "[adaptive_vocabulary] expected {} from 0 to {}, got {}", what,
        begin_.back() - 1, *least < 0 ? *least : *most);
}

Tensor AdaptiveVocabulary::embed(const Tensor& tokens, const Linear& first, Precision precision, double dropout,
                                 uint64_t dropout_key) const {
  check_tokens(tokens, "tokens");
  // Every token goes through the maps of all bands, the further the smaller: to pick those of one, the host would wait
  // for the GPU. In a band that is not its own a token reads some row, and nothing comes of it.
  Tensor rows;
  for (int64_t i = 0; i < bands(); ++i) {
    const Tensor in_band = (tokens - begin_[i]).clamp(0, begin_[i + 1] - begin_[i] - 1);
    const Tensor x = torch::embedding((i == 0 ? first : weight_[i - 1]).weight, in_band);
    const Tensor dropped = drop(x, dropout, dropout_key, static_cast<uint64_t>(i), dropout > 0);
    const Tensor mapped = map_[i](dropped, precision).to(first.weight.scalar_type());
    rows = i == 0 ? mapped : torch::where((tokens >= begin_[i]).unsqueeze(-1), mapped, rows);
  }
  return rows;
}

/// P_i^T f
Tensor AdaptiveVocabulary::mapped(const Tensor& f, int64_t band, Precision precision) const {
  return ops::linear(f, map_[band].weight.t().contiguous(), {}, precision);
}

Tensor AdaptiveVocabulary::log_probabilities(const Tensor& f, const Linear& first, Precision precision) const {
  const auto log_softmax = [](const Tensor& scores) {
    return torch::log_softmax(scores.scalar_type() == torch::kFloat64 ? scores : scores.to(torch::kFloat32), -1);
  };
  const Tensor of_head = log_softmax(torch::cat({first(f, precision), classes_(f, precision)}, -1));
  std::vector<Tensor> parts = {of_head.slice(-1, 0, begin_[1])};
  for (int64_t i = 1; i < bands(); ++i)
    parts.push_back(of_head.narrow(-1, begin_[1] + i - 1, 1) +
                    log_softmax(weight_[i - 1](mapped(f, i, precision), precision)));
  return torch::cat(parts, -1);
}

Tensor AdaptiveVocabulary::nll(const Tensor& f, const Tensor& targets, const Linear& first, Precision precision,
                               double dropout, uint64_t dropout_key) const {
  const Tensor rows = f.reshape({-1, f.size(-1)}), flat = targets.reshape({-1});
  check_tokens(flat.masked_select(flat != -100), "targets, or -100,");
  Tensor of_head = flat;  // targets of the first softmax: tokens of band 0, classes of the others
  for (int64_t i = 1; i < bands(); ++i)
    of_head = torch::where(flat >= begin_[i], torch::full_like(flat, begin_[1] + i - 1), of_head);
  Tensor total = ops::linear_cross_entropy(rows, torch::cat({first.weight, classes_.weight}), of_head, precision);
  for (int64_t i = 1; i < bands(); ++i) {
    const Tensor where = (flat >= begin_[i]).logical_and(flat < begin_[i + 1]).nonzero().squeeze(1);
    const Tensor u = drop(mapped(rows.index_select(0, where), i, precision), dropout, dropout_key,
                          static_cast<uint64_t>(i), dropout > 0);
    const Tensor of_band = ops::linear_cross_entropy(u, weight_[i - 1].weight, flat.index_select(0, where) - begin_[i],
                                                     precision, weight_[i - 1].packed);
    total = total.index_add(0, where, of_band.to(total.scalar_type()));
  }
  return total.view(targets.sizes());
}

void AdaptiveVocabulary::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const Linear& band : weight_) embedding(band.weight, derive_key(key, stream++));
  for (const Linear& map : map_) init_linear(map.weight, "xavier", derive_key(key, stream++));
  init_linear(classes_.weight, "xavier", derive_key(key, stream));
}

}  // namespace megalodon::nn
