// Proofs of relative_attention: parity with loops over queries and keys in float64, streaming, gradients, errors.
#include "ops/relative_attention/relative_attention.h"

#include <cmath>
#include <functional>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::relative_attention_test {
namespace {

using megalodon::testing::check_gradients;
using megalodon::testing::close;

struct Case {
  Scores scores;
  bool causal;
  int64_t chunk, L, J;
  bool padded = false, documents = false;
};

const std::vector<Case> kCases = {
    {Scores::kSoftmax, true, 0, 20, 20},
    {Scores::kSoftmax, true, 0, 600, 600},  // more than a tile
    {Scores::kSoftmax, true, 8, 20, 20, false, true},
    {Scores::kSoftmax, true, 8, 21, 21, true},
    {Scores::kSoftmax, false, 8, 24, 24, true},
    {Scores::kSoftmax, false, 0, 9, 14, true},
    {Scores::kSoftmax, false, 600, 1100, 1100, true},  // tiles inside chunks
    {Scores::kLaplace, true, 8, 20, 20, false, true},
    {Scores::kLaplace, true, 0, 12, 12, true},
    {Scores::kLaplace, false, 8, 24, 24, true},
    {Scores::kRelu2, true, 8, 30, 30, false, true},
    {Scores::kRelu2, false, 0, 7, 11},
};

struct Inputs {
  Tensor q, k, v, bias, padding, starts;
};

Inputs make_inputs(const Case& c) {
  torch::manual_seed(c.L);
  const auto normal = [](torch::IntArrayRef sizes) { return torch::randn(sizes, torch::kFloat64); };
  Inputs in = {normal({2, c.L, 6}), normal({2, c.J, 6}), normal({2, c.J, 5}), normal({2 * 700 - 1}), {}, {}};
  if (c.padded) {
    in.padding = torch::zeros({2, c.J}, torch::kBool);
    in.padding[0].slice(0, c.J - 9) = true;  // of chunks of 8: a whole one and part of another
  }
  if (c.documents) {
    in.starts = torch::zeros({2, c.L}, torch::kBool);
    in.starts[0][5] = true, in.starts[0][6] = true, in.starts[1][11] = true;
  }
  return in;
}

RelativeAttentionOptions options_of(const Case& c, const Inputs& in) {
  RelativeAttentionOptions o;
  o.scores = c.scores, o.causal = c.causal, o.chunk_size = c.chunk;
  o.bias_O = in.bias, o.padding_BJ = in.padding, o.starts_BL = in.starts;
  return o;
}

/// The definition, key by key.
Tensor by_loops(const Case& c, const Inputs& in) {
  const Tensor y = torch::zeros({2, c.L, 5}, torch::kFloat64), products = torch::matmul(in.q, in.k.transpose(1, 2));
  const auto product = products.accessor<double, 3>(), v = in.v.accessor<double, 3>();
  const auto bias = in.bias.accessor<double, 1>();
  auto sum = y.accessor<double, 3>();
  const auto is_set = [](const Tensor& flags, int64_t b, int64_t i) {
    return flags.defined() && flags.accessor<bool, 2>()[b][i];
  };
  for (int64_t b = 0; b < 2; ++b) {
    int64_t document = 0;
    for (int64_t i = 0; i < c.L; ++i) {
      if (is_set(in.starts, b, i)) document = i;
      const int64_t begin = c.chunk > 0 ? document + (i - document) / c.chunk * c.chunk : document;
      const int64_t end = c.causal ? i + 1 : c.chunk > 0 ? std::min(begin + c.chunk, c.J) : c.J;
      const int64_t first = c.causal || c.chunk > 0 ? begin : 0;
      std::vector<int64_t> seen;
      for (int64_t j = first; j < end; ++j)
        if (!is_set(in.padding, b, j)) seen.push_back(j);
      const auto number = c.causal ? end - begin : std::max<int64_t>(static_cast<int64_t>(seen.size()), 1);
      const bool softmax = c.scores == Scores::kSoftmax;
      if (softmax && seen.empty())
        for (int64_t j = first; j < end; ++j) seen.push_back(j);
      double total = 0;
      for (const int64_t j : seen) {
        const double divisor = softmax ? std::sqrt(6.0) : static_cast<double>(number);
        const double score = product[b][i][j] / divisor + bias[699 + j - i];
        const double weight = softmax ? std::exp(score)
                              : c.scores == Scores::kRelu2
                                  ? std::pow(std::max(score, 0.0), 2)
                                  : (1 + std::erf((score - 0.707107) / (0.282095 * std::sqrt(2.0)))) / 2;
        total += weight;
        for (int64_t e = 0; e < 5; ++e) sum[b][i][e] += weight * v[b][j][e];
      }
      for (int64_t e = 0; softmax && e < 5; ++e) sum[b][i][e] /= total;
    }
  }
  return y;
}

TEST(RelativeAttention, IsWhatItsDefinitionSays) {
  for (const Case& c : kCases) {
    const Inputs in = make_inputs(c);
    EXPECT_TRUE(close(relative_attention(in.q, in.k, in.v, options_of(c, in)), by_loops(c, in), 1e-12))
        << "L " << c.L << " chunk " << c.chunk << " causal " << c.causal;
  }
}

TEST(RelativeAttention, GradientsAreThoseOfTheFunction) {
  for (const Case& c : kCases) {
    if (c.L > 24) continue;
    const Inputs in = make_inputs(c);
    const Tensor dy = torch::randn({2, c.L, 5}, torch::kFloat64);
    for (const double dropout : {0.0, 0.3}) {
      const auto function = [&](const std::vector<Tensor>& x) {
        RelativeAttentionOptions o = options_of(c, in);
        o.bias_O = x[3], o.dropout = dropout;
        return (relative_attention(x[0], x[1], x[2], o) * dy).sum();
      };
      check_gradients(function, {in.q, in.k, in.v, in.bias.slice(0, 700 - 30, 700 + 29)});
    }
  }
}

/// Several tiles hold their weights one after the other, in both passes: what the graph keeps does not grow with them.
TEST(RelativeAttention, TilesAreNotKeptForTheBackwardPass) {
  const Case c = {Scores::kLaplace, true, 8, 24, 24};
  const Inputs in = make_inputs(c);
  const Tensor y = relative_attention(in.q.set_requires_grad(true), in.k, in.v, options_of(c, in));
  for (const auto& edge : y.grad_fn()->next_edges())
    EXPECT_TRUE(edge.function == nullptr || edge.function->next_edges().empty());  // inputs, nothing in between
}

/// Rows that stand at different places in their chunks go on with what they kept.
TEST(RelativeAttention, PriorKeysAreKeysOfTheSameChunk) {
  const Case c = {Scores::kLaplace, true, 8, 20, 20};
  const Inputs in = make_inputs(c);
  const Tensor whole = relative_attention(in.q, in.k, in.v, options_of(c, in));
  for (const int64_t cut : {3, 8, 13}) {
    RelativeAttentionOptions o = options_of(c, in);
    const int64_t open = cut % 8;
    if (open > 0) {
      // One more key than is open, which the position leaves out.
      o.prior_k_BTZ = torch::cat({torch::full({2, 1, 6}, 1e3, torch::kFloat64), in.k.slice(1, cut - open, cut)}, 1);
      o.prior_v_BTE = torch::cat({torch::full({2, 1, 5}, 1e3, torch::kFloat64), in.v.slice(1, cut - open, cut)}, 1);
      o.position_B = torch::full({2}, open, torch::kInt64);
    }
    const Tensor rest = relative_attention(in.q.slice(1, cut), in.k.slice(1, cut), in.v.slice(1, cut), o);
    EXPECT_TRUE(close(rest, whole.slice(1, cut), 1e-12)) << cut;
  }
}

TEST(RelativeAttention, DropoutLeavesTheMeanAlone) {
  const Case c = {Scores::kSoftmax, true, 0, 40, 40};
  const Inputs in = make_inputs(c);
  RelativeAttentionOptions o = options_of(c, in);
  const Tensor whole = relative_attention(in.q, in.k, in.v, o);
  o.dropout = 0.3;
  Tensor sum = torch::zeros_like(whole);
  for (uint64_t key = 0; key < 400; ++key) {
    o.dropout_key = key;
    sum += relative_attention(in.q, in.k, in.v, o);
  }
  o.dropout_key = 0;
  EXPECT_FALSE(close(relative_attention(in.q, in.k, in.v, o), whole, 1e-2));
  EXPECT_TRUE(close(sum / 400, whole, 2e-1));
}

TEST(RelativeAttention, WhatDoesNotFitIsAnError) {
  const Case c = {Scores::kSoftmax, true, 0, 20, 20};
  const Inputs in = make_inputs(c);
  const auto attend = [&](const RelativeAttentionOptions& o) { return relative_attention(in.q, in.k, in.v, o); };
  RelativeAttentionOptions o = options_of(c, in);
  o.bias_O = in.bias.slice(0, 0, 2 * 19 - 1);  // 19 positions
  EXPECT_THROW(attend(o), Error);
  o.bias_O = in.bias.slice(0, 0, 2 * 20 - 1);
  EXPECT_NO_THROW(attend(o));
  o.bias_O = in.bias.slice(0, 0, 40);
  EXPECT_THROW(attend(o), Error);
  o = options_of(c, in);
  o.padding_BJ = torch::zeros({2, 19}, torch::kBool);
  EXPECT_THROW(attend(o), Error);
  o = options_of(c, in);
  o.first_query = 1;
  EXPECT_THROW(attend(o), Error);
  o.causal = false;
  EXPECT_NO_THROW(attend(o));
  o = options_of(c, in);
  o.causal = false, o.starts_BL = torch::zeros({2, 20}, torch::kBool);
  EXPECT_THROW(attend(o), Error);
  EXPECT_THROW(relative_attention(in.q, in.k.slice(1, 1), in.v.slice(1, 1), options_of(c, in)), Error);
  EXPECT_THROW(relative_attention(in.q, in.k, in.v.slice(1, 1), options_of(c, in)), Error);
  EXPECT_THROW(score_function(Scores::kSoftmax, in.q), Error);
}

}  // namespace
}  // namespace megalodon::ops::relative_attention_test
