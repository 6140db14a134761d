#include "nn/adaptive_vocabulary.h"

#include <fmt/format.h>

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
    map_DF_.push_back(register_at(module, fmt::format("embed.map_{}.weight", i), {model_dim, F}));
    if (i > 0)
      weight_VF_.push_back(register_at(module, fmt::format("embed.band_{}.weight", i), {begin_[i + 1] - begin_[i], F}));
  }
  classes_ = register_at(module, "output.classes.weight", {bands() - 1, model_dim});
}

Tensor AdaptiveVocabulary::head(const Tensor& first_VD) const {
  return torch::cat({first_VD, classes_.to(first_VD.scalar_type())});
}

Tensor AdaptiveVocabulary::embed(const Tensor& tokens, const Tensor& first_VD, Precision precision) const {
  const Tensor flat = tokens.reshape({-1});
  Tensor rows = torch::zeros({flat.size(0), first_VD.size(1)}, first_VD.options().requires_grad(false));
  for (int64_t i = 0; i < bands(); ++i) {
    const Tensor where = (flat >= begin_[i]).logical_and(flat < begin_[i + 1]).nonzero().squeeze(1);
    const Tensor& weight = i == 0 ? first_VD : weight_VF_[i - 1];
    const Tensor x = torch::embedding(weight, flat.index_select(0, where) - begin_[i]);
    rows = rows.index_add(0, where, ops::linear(x, map_DF_[i], {}, precision).to(rows.scalar_type()));
  }
  std::vector<int64_t> sizes = tokens.sizes().vec();
  sizes.push_back(rows.size(1));
  return rows.view(sizes);
}

Tensor AdaptiveVocabulary::log_probabilities(const Tensor& f, const Tensor& first_VD, Precision precision) const {
  const auto log_softmax = [](const Tensor& scores) {
    return torch::log_softmax(scores.scalar_type() == torch::kFloat64 ? scores : scores.to(torch::kFloat32), -1);
  };
  const Tensor of_head = log_softmax(ops::linear(f, head(first_VD), {}, precision));
  std::vector<Tensor> parts = {of_head.slice(-1, 0, begin_[1])};
  for (int64_t i = 1; i < bands(); ++i) {
    const Tensor u = ops::linear(f, map_DF_[i].t().contiguous(), {}, precision);
    parts.push_back(of_head.narrow(-1, begin_[1] + i - 1, 1) +
                    log_softmax(ops::linear(u, weight_VF_[i - 1], {}, precision)));
  }
  return torch::cat(parts, -1);
}

Tensor AdaptiveVocabulary::nll(const Tensor& f, const Tensor& targets, const Tensor& first_VD, Precision precision,
                               double dropout, uint64_t dropout_key) const {
  const Tensor rows = f.reshape({-1, f.size(-1)}), flat = targets.reshape({-1});
  Tensor of_head = flat;  // targets of the first softmax: tokens of band 0, classes of the others
  for (int64_t i = 1; i < bands(); ++i)
    of_head = torch::where(flat >= begin_[i], torch::full_like(flat, begin_[1] + i - 1), of_head);
  Tensor total = ops::linear_cross_entropy(rows, head(first_VD), of_head, precision);
  for (int64_t i = 1; i < bands(); ++i) {
    const Tensor where = (flat >= begin_[i]).logical_and(flat < begin_[i + 1]).nonzero().squeeze(1);
    const Tensor u = drop(ops::linear(rows.index_select(0, where), map_DF_[i].t().contiguous(), {}, precision), dropout,
                          dropout_key, static_cast<uint64_t>(i), dropout > 0);
    total = total.index_add(
        0, where,
        ops::linear_cross_entropy(u, weight_VF_[i - 1], flat.index_select(0, where) - begin_[i], precision)
            .to(total.scalar_type()));
  }
  return total.view(targets.sizes());
}

void AdaptiveVocabulary::init_weights(uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const Tensor& weight : weight_VF_) embedding(weight, derive_key(key, stream++));
  for (const Tensor& map : map_DF_) init_linear(map, "xavier", derive_key(key, stream++));
  init_linear(classes_, "xavier", derive_key(key, stream));
}

}  // namespace megalodon::nn
