// Proofs of flash_attention: how chunks become rows of their own, scales and gradients against chunk_attention() and
// attention() in float64, on the CPU, where PyTorch computes the same in another way; and what is not left to it.
#include "ops/chunk_attention/flash_attention.h"

#include <ATen/Context.h>
#include <ATen/record_function.h>

#include <cctype>

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

int backward_steps = 0, strict_backward_steps = 0;

/// Counts what softmax or attention does in the backward pass, and where PyTorch was to be strict about its order.
std::unique_ptr<at::ObserverContext> count_backward_steps(const at::RecordFunction& function) {
  std::string name = function.name();
  for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  if (!has("backward") || !(has("softmax") || has("attention"))) return nullptr;
  const at::Context& context = at::globalContext();
  ++backward_steps;
  strict_backward_steps += context.deterministicAlgorithms() && !context.deterministicAlgorithmsWarnOnly() ? 1 : 0;
  return nullptr;
}

TEST(FlashAttention, AddsGradientsUpInOneOrderAndLeavesTheSettingsAsTheyWere) {
  for (const bool before : {false, true}) {
    at::globalContext().setDeterministicAlgorithms(before, /*warn_only=*/before);
    set_fills_new_memory(true);
    const Tensor x = torch::randn({1, 4, 1, 8}).requires_grad_(), y = flash_attention(x, x, x, 0, kScale, true).sum();
    backward_steps = strict_backward_steps = 0;
    const auto counting = at::addThreadLocalCallback(
        at::RecordFunctionCallback(&count_backward_steps).scopes({at::RecordScope::FUNCTION}));
    torch::autograd::grad({y}, {x});
    at::removeCallback(counting);
    EXPECT_GT(strict_backward_steps, 0);
    EXPECT_EQ(strict_backward_steps, backward_steps);
    EXPECT_EQ(at::globalContext().deterministicAlgorithms(), before);
    EXPECT_EQ(at::globalContext().deterministicAlgorithmsWarnOnly(), before);
    EXPECT_EQ(fills_new_memory(), MEGALODON_TORCH_AT_LEAST(2, 2));
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
  o.prior_k_BTHK = o.prior_v_BTHV = torch::empty({1, 0, 2, 8});
  EXPECT_TRUE(serves(16, 8, 8, o));
  o = plain, o.chunk_size = 2;
  EXPECT_TRUE(serves(2 * 65535, 8, 8, o));
  EXPECT_FALSE(serves(2 * 65535 + 1, 8, 8, o));
}

TEST(FlashAttention, IsLeftAloneOnACpu) {
  const Tensor x = torch::randn({1, 16, 2, 8}, torch::kBFloat16);
  EXPECT_FALSE(try_flash_attention(x, x, x, {}, true).has_value());
}

/// q of four heads, and k and v of two.
std::vector<Tensor> gpu_inputs(int64_t length, int64_t K) {
  std::vector<Tensor> x;
  for (const int64_t heads : {4, 2, 2})
    x.push_back(torch::randn({2, length, heads, K}, torch::dtype(torch::kBFloat16).device(torch::kCUDA)));
  return x;
}

auto attend_with(const AttentionOptions& options) {
  return [&options](const Tensor& q, const Tensor& k, const Tensor& v) { return attention(q, k, v, options); };
}

TEST(FlashAttention, GpuIsNearTheReference) {
  if (!megalodon::testing::has_gpu()) GTEST_SKIP() << megalodon::testing::kNoGpu;
  torch::manual_seed(1);
  for (const int64_t K : {8, 64, 128, 256})
    for (const bool causal : {true, false})
      for (const int64_t chunk_size : {0, 128, 100}) {
        SCOPED_TRACE("K " + std::to_string(K) + " causal " + std::to_string(causal) + " chunk " +
                     std::to_string(chunk_size));
        AttentionOptions options;
        options.causal = causal, options.chunk_size = chunk_size, options.scale = 0.2;
        const auto inputs = gpu_inputs(384, K);
        std::vector<Tensor> exact_inputs;
        for (const Tensor& t : inputs) exact_inputs.push_back(t.to(torch::kCPU, torch::kFloat64));
        const Tensor dy = torch::randn(inputs[0].sizes(), inputs[0].options());
        const auto got = run(inputs, dy, attend_with(options));
        const auto expected = run(exact_inputs, dy.to(torch::kCPU, torch::kFloat64), attend_with(options));
        for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 2e-2)) << "number " << i;
      }
}

TEST(FlashAttention, GpuHasTheSameBitsEachTime) {
  if (!megalodon::testing::has_gpu()) GTEST_SKIP() << megalodon::testing::kNoGpu;
  torch::manual_seed(2);
  AttentionOptions options;
  options.scale = 0.125;
  const auto inputs = gpu_inputs(8192, 64);
  const Tensor heads = inputs[1].repeat_interleave(2, 2);
  EXPECT_EQ(try_flash_attention(inputs[0], heads, heads, {}, true).has_value(), kHasFlashAttention);
  const Tensor dy = torch::randn(inputs[0].sizes(), inputs[0].options());
  const auto first = run(inputs, dy, attend_with(options));
  for (int again = 0; again < 5; ++again) {
    const auto got = run(inputs, dy, attend_with(options));
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::equal(got[i], first[i])) << "number " << i;
  }
}

TEST(FlashAttention, GpuHoldsNoScores) {
  if (!megalodon::testing::has_gpu()) GTEST_SKIP() << megalodon::testing::kNoGpu;
  constexpr int64_t kLength = 32768;
  AttentionOptions options;
  options.scale = 0.125;
  const auto inputs = gpu_inputs(kLength, 64);
  reset_peak_memory(torch::kCUDA);
  run(inputs, torch::ones_like(inputs[0]), attend_with(options));
  // Scores would be 17 GB; what adds up the gradient of q in one order is 1.2 GB.
  EXPECT_LT(peak_memory(torch::kCUDA), int64_t{4} << 30);
}

}  // namespace
}  // namespace megalodon::ops::flash_attention_test
