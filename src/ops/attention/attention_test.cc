// Proofs of attention: parity of what runs on chunk_attention with the float64 composition, gradients, streaming,
// padding, errors.
#include "ops/attention/attention.h"

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention_kernel.h"
#include "ops/device.h"
#include "ops/testing.h"

namespace megalodon::ops::attention_test {
namespace {

using megalodon::testing::check_gradients;
using megalodon::testing::close;

struct Case {
  int64_t B, L, H, G, K, V;
  bool biased = false;
  int64_t chunk = 0, window = 0, T = 0;
  bool causal = true;
  int64_t padding = 0;  // steps at the end of row b that are padding: b · padding
};

const std::vector<Case> kCases = {
    {1, 1, 1, 1, 8, 8},
    {2, 70, 4, 2, 8, 6},
    {2, 33, 6, 1, 16, 8, true},
    {1, 130, 3, 3, 8, 8, true},
    {2, 50, 4, 4, 6, 6, false, 16},
    {2, 90, 4, 2, 8, 8, false, 0, 17},
    {1, 90, 2, 2, 8, 8, true, 0, 30, 29},
    {2, 9, 4, 2, 8, 8, true, 0, 0, 40},
    {2, 70, 4, 2, 8, 6, false, 0, 0, 0, true, 33},
    {1, 1, 1, 1, 8, 8, false, 0, 0, 0, false},
    {2, 70, 4, 2, 8, 6, true, 0, 0, 0, false},
    {3, 90, 2, 2, 16, 8, false, 0, 0, 0, false, 45},
    {2, 96, 2, 1, 8, 8, false, 32, 0, 0, false},
    {3, 90, 2, 2, 8, 8, true, 32, 0, 0, false, 30},
    {1, 9, 2, 2, 8, 8, false, 32, 0, 0, false},
};

/// q, k, v and, where T > 0, prior_k, prior_v, in float64.
std::vector<Tensor> make_inputs(const Case& c) {
  const auto normal = [](torch::IntArrayRef sizes) { return torch::randn(sizes, torch::kFloat64); };
  std::vector<Tensor> x = {normal({c.B, c.L, c.H, c.K}), normal({c.B, c.L, c.G, c.K}), normal({c.B, c.L, c.G, c.V})};
  if (c.T > 0) x.insert(x.end(), {normal({c.B, c.T, c.G, c.K}), normal({c.B, c.T, c.G, c.V})});
  return x;
}

AttentionOptions make_options(const Case& c) {
  AttentionOptions o;
  o.scale = 1 / std::sqrt(static_cast<double>(c.K));
  o.chunk_size = c.chunk, o.window = c.window;
  if (c.biased) o.slope_H = torch::pow(0.5, torch::arange(1, c.H + 1, torch::kFloat64));
  o.causal = c.causal;
  if (c.padding > 0) o.padding_BJ = torch::arange(c.L) >= c.L - c.padding * torch::arange(c.B).unsqueeze(1);
  return o;
}

/// y and the gradients of Σ y dy.
template <class Attention>
std::vector<Tensor> run(const Attention& of, const std::vector<Tensor>& inputs, AttentionOptions options,
                        const Tensor& dy) {
  std::vector<Tensor> x;
  for (const Tensor& t : inputs) x.push_back(t.detach().clone().to(dy.options()).set_requires_grad(true));
  if (x.size() > 3) options.prior_k_BTGK = x[3], options.prior_v_BTGV = x[4];
  const Tensor y = of(x[0], x[1], x[2], options);
  std::vector<Tensor> out = {y.detach()};
  for (const Tensor& g : torch::autograd::grad({(y * dy).sum()}, x)) out.push_back(g);
  return out;
}

/// Padding before a causal sequence: its first steps see nothing, and are 0.
TEST(Attention, WhatSeesNothingIsZeroAndHasNoGradient) {
  const auto x = make_inputs({2, 5, 2, 2, 4, 4});
  AttentionOptions options = make_options({2, 5, 2, 2, 4, 4});
  options.causal = true;
  options.padding_BJ = torch::zeros({2, 5}, torch::kBool);
  options.padding_BJ[0].slice(0, 0, 2).fill_(true);
  const auto out =
      run([](auto&&... of) { return attention(of...); }, x, options, torch::ones({2, 5, 2, 4}, torch::kFloat64));
  EXPECT_TRUE(out[0][0].slice(0, 0, 2).eq(0).all().item<bool>());
  for (const Tensor& t : out) EXPECT_TRUE(t.isfinite().all().item<bool>());
}

TEST(Attention, MatchesTheReference) {
  torch::manual_seed(1);
  for (const Case& c : kCases) {
    SCOPED_TRACE(fmt::format("L{} H{} G{} biased {} chunk {} window {} T{} causal {} padding {}", c.L, c.H, c.G,
                             c.biased, c.chunk, c.window, c.T, c.causal, c.padding));
    const auto inputs = make_inputs(c);
    const Tensor dy = torch::randn({c.B, c.L, c.H, c.V}, torch::kFloat64);
    const auto expected = run(ref::attention, inputs, make_options(c), dy);
    const auto wide = run(attention, inputs, make_options(c), dy);
    const auto got = run(attention, inputs, make_options(c), dy.to(torch::kFloat32));
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_TRUE(close(wide[i], expected[i], 1e-12)) << i;
      EXPECT_TRUE(close(got[i], expected[i], 2e-5, 1e-6)) << i;
    }
  }
}

TEST(Attention, GradientsMatch) {
  torch::manual_seed(2);
  const Case c{1, 5, 4, 2, 3, 2, true, 0, 3};
  const Tensor dy = torch::randn({c.B, c.L, c.H, c.V}, torch::kFloat64);
  const auto scalar = [&](const AttentionOptions& options) {
    return [&dy, options](const std::vector<Tensor>& x) { return (attention(x[0], x[1], x[2], options) * dy).sum(); };
  };
  check_gradients(scalar(make_options(c)), make_inputs(c));
  AttentionOptions padded;
  padded.causal = false;
  padded.padding_BJ = torch::tensor({{false, true, false, false, true}});
  check_gradients(scalar(padded), make_inputs(c));
}

/// Queries of another sequence, fewer or more than the keys.
TEST(Attention, EveryQuerySeesEveryKeyOfAnotherSequence) {
  torch::manual_seed(6);
  const Case c{2, 20, 4, 2, 8, 6, false, 0, 0, 0, false, 7};
  for (const int64_t queries : {3, 50}) {
    auto x = make_inputs(c);
    x[0] = torch::randn({2, queries, 4, 8}, torch::kFloat64);
    const Tensor dy = torch::randn({2, queries, 4, 6}, torch::kFloat64);
    const auto expected = run(ref::attention, x, make_options(c), dy);
    const auto got = run(attention, x, make_options(c), dy.to(torch::kFloat32));
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 2e-5, 1e-6)) << queries << " " << i;
  }
}

/// Heads that share keys and values are heads with copies of them.
TEST(Attention, GroupedHeadsReadTheirOwnGroup) {
  torch::manual_seed(3);
  const auto x = make_inputs({1, 6, 4, 2, 8, 8});
  const Tensor y = attention(x[0], x[1], x[2], {});
  for (int64_t h = 0; h < 4; ++h) {
    const auto one = [](const Tensor& t, int64_t head) { return t.narrow(2, head, 1); };
    EXPECT_TRUE(close(one(y, h), attention(one(x[0], h), one(x[1], h / 2), one(x[2], h / 2), {}), 1e-14)) << h;
  }
}

TEST(Attention, NobodySeesPaddingNorTheFuture) {
  torch::manual_seed(4);
  const auto x = make_inputs({2, 7, 2, 2, 8, 8});
  AttentionOptions options;
  options.padding_BJ = torch::zeros({2, 7}, torch::kBool);
  options.padding_BJ.slice(1, 5).fill_(true);
  for (const bool causal : {false, true}) {
    options.causal = causal;
    const Tensor y = attention(x[0], x[1], x[2], options);
    Tensor k = x[1].clone(), v = x[2].clone();
    k.slice(1, causal ? 4 : 5).add_(3), v.slice(1, causal ? 4 : 5).add_(3);
    const Tensor other = attention(x[0], k, v, options);
    EXPECT_TRUE(torch::equal(y.slice(1, 0, 4), other.slice(1, 0, 4))) << causal;
    EXPECT_EQ(torch::equal(y.select(1, 4), other.select(1, 4)), !causal);
  }
}

TEST(Attention, PaddingOfChunksMayLieAnyhow) {
  torch::manual_seed(5);
  const auto x = make_inputs({2, 8, 2, 2, 4, 4});
  AttentionOptions options;
  options.causal = false, options.chunk_size = 4;
  const Tensor padding_LB = torch::tensor({{0, 0}, {0, 0}, {0, 1}, {0, 1}, {0, 0}, {0, 0}, {1, 0}, {1, 1}}) == 1;
  options.padding_BJ = padding_LB.t();
  const Tensor y = attention(x[0], x[1], x[2], options);
  EXPECT_TRUE(close(y, ref::attention(x[0], x[1], x[2], options), 1e-13));
}

/// Keys that nobody sees, and the further feature that says so, take no precision away; biases do.
TEST(Attention, ProductsAreOfTheCallersPrecisionWithoutAlibi) {
  torch::manual_seed(7);
  for (const bool causal : {false, true})
    for (const bool padded : {false, true})
      for (const bool biased : {false, true}) {
        Case c{2, 40, 2, 2, 8, 8, biased, 0, 0, 0, causal, padded ? 9 : 0};
        AttentionOptions options = make_options(c);
        const Tensor dy = torch::randn({c.B, c.L, c.H, c.V});
        const auto inputs = make_inputs(c);
        const auto full = run(attention, inputs, options, dy);
        options.precision = Precision::kBfloat16;
        const auto got = run(attention, inputs, options, dy);
        const bool narrow = !biased && chunk_attention_has_pairs() && !use_reference();
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_EQ(torch::equal(got[i], full[i]), !narrow) << causal << padded << biased << " " << i;
          EXPECT_TRUE(close(got[i], full[i], 5e-2, 5e-2)) << causal << padded << biased << " " << i;
        }
      }
}

TEST(Attention, WrongInputsAreNamed) {
  const auto x = make_inputs({2, 7, 4, 2, 8, 8});
  const auto refuses = [&](const std::function<void(AttentionOptions&)>& change) {
    AttentionOptions options;
    change(options);
    EXPECT_THROW(attention(x[0], x[1], x[2], options), Error);
  };
  refuses([](auto& o) { o.slope_H = torch::ones({3}); });
  refuses([](auto& o) { o.padding_BJ = torch::zeros({2, 6}, torch::kBool); });
  refuses([](auto& o) { o.causal = false, o.window = 3; });
  refuses([&](auto& o) { o.prior_k_BTGK = x[1]; });
  refuses([](auto& o) { o.causal = false, o.starts_BL = torch::zeros({2, 7}, torch::kBool); });
  EXPECT_THROW(attention(x[0].narrow(2, 0, 3), x[1], x[2], {}), Error);
  EXPECT_THROW(attention(x[0].narrow(1, 0, 3), x[1], x[2], {}), Error);
}

}  // namespace
}  // namespace megalodon::ops::attention_test
