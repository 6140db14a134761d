// Proofs of flash_attention: how chunks become rows of their own, scales and gradients against chunk_attention() and
// attention() in float64, on the CPU, where PyTorch computes the same in another way; and what is not left to it.
#include "ops/chunk_attention/flash_attention.h"

#include <ATen/Context.h>

#include "ops/attention/attention.h"
#include "ops/device.h"
#include "ops/testing.h"

namespace megalodon::ops::flash_attention_test {
namespace {

using megalodon::testing::close;

constexpr double kScale = 0.3;

/// y and the gradients of Σ y dy.
template <class Attend>
std::vector<Tensor> run(const std::vector<Tensor>& inputs, const Tensor& dy, const Attend& attend) {
  std::vector<Tensor> x;
  for (const Tensor& t : inputs) x.push_back(t.detach().clone().set_requires_grad(true));
  const Tensor y = attend(x[0], x[1], x[2]), loss = (y * dy).sum();
  std::vector<Tensor> out = {y.detach()};
  for (const Tensor& g : torch::autograd::grad({loss}, x, {}, /*retain_graph=*/true)) out.push_back(g);
  const auto again = torch::autograd::grad({loss}, x);  // as retain_graph promises
  for (size_t i = 0; i < again.size(); ++i) EXPECT_TRUE(torch::equal(again[i], out[i + 1])) << "gradient " << i;
  return out;
}

void expect_same(const std::vector<Tensor>& got, const std::vector<Tensor>& expected) {
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 1e-12, 1e-12)) << "number " << i;
}

TEST(FlashAttention, IsChunkAttention) {
  torch::manual_seed(1);
  for (const int64_t chunk_size : {0, 1, 8, 16, 17, 18}) {
    SCOPED_TRACE(chunk_size);
    std::vector<Tensor> inputs;
    for (int i = 0; i < 3; ++i) inputs.push_back(torch::randn({2, 17, 3, 8}, torch::kFloat64));
    ChunkAttentionOptions options;
    options.chunk_size = chunk_size, options.scale = kScale;
    ASSERT_TRUE(flash_attention_serves(inputs[0], inputs[2], options));
    const Tensor dy = torch::randn({2, 17, 3, 8}, torch::kFloat64);
    const auto expected = run(inputs, dy, [&](const Tensor& q, const Tensor& k, const Tensor& v) {
      return ref::chunk_attention(q, k, v, options);
    });
    expect_same(run(inputs, dy,
                    [&](const Tensor& q, const Tensor& k, const Tensor& v) {
                      return flash_attention(q, k, v, chunk_size, kScale, /*causal=*/true);
                    }),
                expected);
    const torch::NoGradGuard no_grad;
    EXPECT_TRUE(close(flash_attention(inputs[0], inputs[1], inputs[2], chunk_size, kScale, true), expected[0], 1e-12));
  }
}

TEST(FlashAttention, NeedNotBeCausal) {
  torch::manual_seed(2);
  const auto normal = [](int64_t steps) { return torch::randn({2, steps, 3, 8}, torch::kFloat64); };
  const std::vector<Tensor> inputs = {normal(5), normal(17), normal(17)};
  const Tensor dy = normal(5);
  AttentionOptions options;
  options.causal = false, options.scale = kScale;
  expect_same(run(inputs, dy,
                  [&](const Tensor& q, const Tensor& k, const Tensor& v) {
                    return flash_attention(q, k, v, /*chunk_size=*/0, kScale, /*causal=*/false);
                  }),
              run(inputs, dy,
                  [&](const Tensor& q, const Tensor& k, const Tensor& v) { return ref::attention(q, k, v, options); }));
}

TEST(FlashAttention, LeavesTheSettingsAsTheyAre) {
  for (const bool before : {false, true}) {
    at::globalContext().setDeterministicAlgorithms(before, /*warn_only=*/false);
    const Tensor x = torch::randn({1, 4, 1, 8}).requires_grad_();
    flash_attention(x, x, x, 0, kScale, true).sum().backward();
    EXPECT_EQ(at::globalContext().deterministicAlgorithms(), before);
    EXPECT_FALSE(at::globalContext().deterministicAlgorithmsWarnOnly());
  }
  at::globalContext().setDeterministicAlgorithms(false, /*warn_only=*/false);
}

TEST(FlashAttention, ServesWhatItHas) {
  const auto serves = [](int64_t length, int64_t K, int64_t V, const ChunkAttentionOptions& options) {
    return flash_attention_serves(torch::empty({1, length, 2, K}), torch::empty({1, length, 2, V}), options);
  };
  ChunkAttentionOptions plain;
  EXPECT_TRUE(serves(16, 8, 8, plain));
  EXPECT_TRUE(serves(16, 256, 256, plain));
  EXPECT_FALSE(serves(16, 264, 264, plain));
  EXPECT_FALSE(serves(16, 12, 12, plain));
  EXPECT_FALSE(serves(16, 64, 128, plain));
  ChunkAttentionOptions o = plain;
  o.window = 15;
  EXPECT_FALSE(serves(16, 8, 8, o));
  EXPECT_TRUE(serves(15, 8, 8, o));
  o.chunk_size = 15;
  EXPECT_TRUE(serves(16, 8, 8, o));
  o = plain, o.dropout = 0.1;
  EXPECT_FALSE(serves(16, 8, 8, o));
  o = plain, o.starts_BL = torch::zeros({1, 16}, torch::kBool);
  EXPECT_FALSE(serves(16, 8, 8, o));
  o = plain, o.position_B = torch::zeros({1}, torch::kInt64);
  EXPECT_FALSE(serves(16, 8, 8, o));
  o = plain, o.prior_k_BTHK = o.prior_v_BTHV = torch::empty({1, 3, 2, 8});
  EXPECT_FALSE(serves(16, 8, 8, o));
}

TEST(FlashAttention, IsLeftAloneOnACpu) {
  const Tensor x = torch::randn({1, 16, 2, 8}, torch::kBFloat16);
  EXPECT_FALSE(try_flash_attention(x, x, x, {}, true).has_value());
}

/// q, and k and v.
std::vector<Tensor> random_inputs(torch::IntArrayRef q, torch::IntArrayRef kv) {
  std::vector<Tensor> x;
  for (const auto& sizes : {q, kv, kv})
    x.push_back(torch::randn(sizes, torch::dtype(torch::kBFloat16).device(torch::kCUDA)));
  return x;
}

TEST(FlashAttention, GpuIsNearTheReferenceAndTheSameEachTime) {
  if (!at::hasCUDA()) GTEST_SKIP() << "no GPU here";
  torch::manual_seed(1);
  for (const int64_t K : {8, 64, 128, 256})
    for (const bool causal : {true, false})
      for (const int64_t chunk_size : {0, 128, 100}) {
        SCOPED_TRACE("K " + std::to_string(K) + " causal " + std::to_string(causal) + " chunk " +
                     std::to_string(chunk_size));
        AttentionOptions options;
        options.causal = causal, options.chunk_size = chunk_size, options.scale = 0.2;
        const auto attend = [&](const Tensor& q, const Tensor& k, const Tensor& v) {
          return attention(q, k, v, options);
        };
        const auto inputs = random_inputs({2, 384, 4, K}, {2, 384, 2, K});
        const Tensor dy = torch::randn({2, 384, 4, K}, inputs[0].options());
        const auto got = run(inputs, dy, attend), again = run(inputs, dy, attend);
        std::vector<Tensor> exact_inputs;
        for (const Tensor& t : inputs) exact_inputs.push_back(t.to(torch::kCPU, torch::kFloat64));
        const auto expected = run(exact_inputs, dy.to(torch::kCPU, torch::kFloat64), attend);
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_TRUE(torch::equal(got[i], again[i])) << "number " << i;
          EXPECT_TRUE(close(got[i], expected[i], 2e-2)) << "number " << i;
        }
      }
}

TEST(FlashAttention, GpuHoldsNoScores) {
  if (!at::hasCUDA() || !kHasFlashAttention) GTEST_SKIP() << "no GPU here, or PyTorch 1";
  constexpr int64_t kLength = 16384;
  AttentionOptions options;
  options.scale = 0.125;
  const auto inputs = random_inputs({1, kLength, 16, 64}, {1, kLength, 16, 64});
  const Tensor dy = torch::ones_like(inputs[0]);
  reset_peak_memory(torch::kCUDA);
  run(inputs, dy, [&](const Tensor& q, const Tensor& k, const Tensor& v) { return attention(q, k, v, options); });
  // Scores are 8.6 GB; what adds up the gradient of q in one order, 0.6 GB.
  EXPECT_LT(peak_memory(torch::kCUDA), int64_t{2} << 30);
}

}  // namespace
}  // namespace megalodon::ops::flash_attention_test
