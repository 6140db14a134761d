// Proofs of chunk_attention: intervals by hand, parity of the kernel with the float64 reference, gradients, streaming,
// isolation, dropout, threads, errors.
#include "ops/chunk_attention/chunk_attention.h"

#include <hwy/targets.h>

#include <random>
#include <utility>

#include "base/check.h"
#include "ops/chunk_attention/chunk_attention_kernel.h"
#include "ops/registration.h"
#include "ops/testing.h"

namespace megalodon::ops::chunk_attention_test {
namespace {

using megalodon::testing::check_gradients;
using megalodon::testing::close;

struct Case {
  int64_t B, L, H, K, V, C;
  int64_t T = 0;          // prior keys
  bool position = false;  // rows stand at different positions of their chunk
  bool starts = false;
  int64_t window = 0;
};

// Around every tile edge of the kernel (6, 16, 64, 96) and of the chunks.
const std::vector<Case> kCases = {
    {1, 1, 1, 8, 8, 16},
    {3, 15, 2, 8, 12, 16},
    {1, 16, 3, 6, 10, 16},
    {2, 17, 1, 64, 96, 16},
    {1, 48, 2, 8, 6, 16},
    {1, 129, 1, 8, 16, 43},
    {2, 42, 2, 6, 10, 43},
    {1, 300, 3, 64, 96, 64},
    {1, 300, 2, 64, 200, 256},
    {1, 129, 2, 8, 6, 0},
    {2, 300, 1, 18, 12, 0},
    {3, 7, 2, 8, 12, 16, 9},
    {2, 1, 3, 64, 200, 256, 130},
    {3, 6, 2, 6, 10, 64, 63, true},
    {3, 129, 2, 8, 12, 43, 42, true, true},
    {2, 300, 1, 64, 96, 256, 200, true, true},
    {3, 100, 2, 8, 6, 0, 0, false, true},
    {2, 97, 2, 130, 70, 0, 100, true},
    {3, 1, 1, 256, 96, 64, 63, true},
    {2, 65, 1, 8, 8, 64, 10, true, true},
    {2, 129, 2, 9, 12, 0, 0, false, false, 2},
    {1, 300, 2, 64, 96, 0, 40, false, false, 41},
    {2, 300, 1, 18, 12, 256, 70, true, true, 100},
};

std::string describe(const Case& c) {
  return fmt::format("B{} L{} H{} K{} V{} C{} T{} position {} starts {} window {}", c.B, c.L, c.H, c.K, c.V, c.C, c.T,
                     c.position, c.starts, c.window);
}

/// q, k, v and, where T > 0, prior_k, prior_v, in float64.
std::vector<Tensor> make_inputs(const Case& c) {
  const auto normal = [](torch::IntArrayRef sizes) { return torch::randn(sizes, torch::kFloat64); };
  std::vector<Tensor> x = {normal({c.B, c.L, c.H, c.K}), normal({c.B, c.L, c.H, c.K}), normal({c.B, c.L, c.H, c.V})};
  if (c.T > 0) x.insert(x.end(), {normal({c.B, c.T, c.H, c.K}), normal({c.B, c.T, c.H, c.V})});
  return x;
}

ChunkAttentionOptions make_options(const Case& c, double dropout = 0) {
  ChunkAttentionOptions o;
  o.chunk_size = c.C, o.window = c.window;
  o.scale = 2 / std::sqrt(static_cast<double>(c.K));
  o.dropout = dropout;
  o.dropout_key = 77;
  if (c.starts) o.starts_BL = torch::rand({c.B, c.L}) < 3.0 / static_cast<double>(c.L);
  if (c.position) o.position_B = torch::randint(0, c.T + 1, {c.B}, torch::kInt64);
  return o;
}

/// y and the gradients of Σ y dy for the inputs, all at the dtype and on the device of dy.
std::vector<Tensor> run(const std::vector<Tensor>& inputs, ChunkAttentionOptions options, const Tensor& dy) {
  std::vector<Tensor> x;
  for (const Tensor& t : inputs) x.push_back(t.detach().clone().to(dy.options()).set_requires_grad(true));
  if (x.size() > 3) options.prior_k_BTHK = x[3], options.prior_v_BTHV = x[4];
  const Tensor y = chunk_attention(x[0], x[1], x[2], options);
  std::vector<Tensor> out = {y.detach()};
  for (const Tensor& g : torch::autograd::grad({(y * dy).sum()}, x)) out.push_back(g);
  return out;
}

void expect_parity(const Case& c, double dropout, torch::Device device = torch::kCPU) {
  SCOPED_TRACE(describe(c));
  const auto inputs = make_inputs(c);
  const auto options = make_options(c, dropout);
  const Tensor dy = torch::randn({c.B, c.L, c.H, c.V}, torch::kFloat64);
  const auto expected = run(inputs, options, dy), got = run(inputs, options, dy.to(device, torch::kFloat32));
  EXPECT_TRUE(close(got[0].cpu(), expected[0], 5e-6));
  for (size_t i = 1; i < got.size();
       ++i)  // the absolute part: a lone key's gradient is the difference of equal numbers
    EXPECT_TRUE(close(got[i].cpu(), expected[i], 2e-5, 1e-6)) << "gradient " << i - 1;
}

TEST(ChunkAttention, IntervalsByHand) {
  ChunkAttentionOptions o;
  o.chunk_size = 4;
  o.position_B = torch::tensor({3, 0, 1}, torch::kInt64);
  o.starts_BL = torch::zeros({3, 6}, torch::kBool);
  o.starts_BL[2][3] = true;
  const Tensor begin = torch::tensor({{0, 4, 4, 4, 4, 8}, {3, 3, 3, 3, 7, 7}, {2, 2, 2, 6, 6, 6}}, torch::kInt64);
  EXPECT_TRUE(torch::equal(first_visible_key(3, 6, 3, o), begin));
  const auto [position, next] = chunk_positions(3, 6, 4, o.starts_BL, o.position_B);
  const Tensor expected = torch::tensor({{3, 0, 1, 2, 3, 0}, {0, 1, 2, 3, 0, 1}, {1, 2, 3, 0, 1, 2}}, torch::kInt64);
  EXPECT_TRUE(torch::equal(position, expected));
  EXPECT_TRUE(torch::equal(next, torch::tensor({1, 2, 3}, torch::kInt64)));
  EXPECT_EQ(chunk_positions(1, 8, 4, {}, {}).next_B.item<int64_t>(), 0);  // a full chunk is closed
  EXPECT_EQ(chunk_positions(1, 8, 0, {}, {}).next_B.item<int64_t>(), 8);  // no chunks: counts on
}

TEST(ChunkAttention, WindowsByHand) {
  ChunkAttentionOptions o;
  o.chunk_size = 4, o.window = 2;
  o.position_B = torch::tensor({3}, torch::kInt64);
  const Tensor begin = torch::tensor({{2, 4, 4, 5, 6, 8}}, torch::kInt64);
  EXPECT_TRUE(torch::equal(first_visible_key(1, 6, 3, o), begin));
  o.chunk_size = 0, o.window = 3, o.position_B = Tensor();
  EXPECT_TRUE(torch::equal(first_visible_key(1, 4, 2, o), torch::tensor({{0, 1, 2, 3}}, torch::kInt64)));
}

TEST(ChunkAttention, ReferenceByHand) {
  // Two equal keys share the weight; the chunk after sees neither.
  const Tensor q = torch::zeros({1, 3, 1, 2}, torch::kFloat64), v = torch::tensor({1.0, 3.0, 8.0}).view({1, 3, 1, 1});
  ChunkAttentionOptions o;
  o.chunk_size = 2;
  const Tensor y = chunk_attention(q, q, v.to(torch::kFloat64), o);
  EXPECT_TRUE(torch::equal(y.flatten(), torch::tensor({1.0, 2.0, 8.0}, torch::kFloat64)));
}

TEST(ChunkAttention, KernelMatchesReference) {
  torch::manual_seed(1);
  for (const Case& c : kCases) expect_parity(c, 0);
}

TEST(ChunkAttention, KernelMatchesReferenceWithDropout) {
  torch::manual_seed(2);
  for (const size_t i : {1, 7, 9, 14, 17, 18}) expect_parity(kCases[i], 0.3);
}

TEST(ChunkAttention, GpuMatchesReference) {
  if (!megalodon::testing::has_gpu()) GTEST_SKIP() << megalodon::testing::kNoGpu;
  torch::manual_seed(12);
  for (const Case& c : kCases) expect_parity(c, 0, torch::kCUDA);
  for (const size_t i : {1, 7, 14, 18}) expect_parity(kCases[i], 0.3, torch::kCUDA);
}

TEST(ChunkAttention, GpuFindsTheSamePositions) {
  if (!megalodon::testing::has_gpu()) GTEST_SKIP() << megalodon::testing::kNoGpu;
  torch::manual_seed(13);
  for (const Case& c : kCases) {
    SCOPED_TRACE(describe(c));
    const auto o = make_options(c);
    EXPECT_TRUE(
        torch::equal(first_visible_key(c.B, c.L, c.T, o, torch::kCUDA).cpu(), first_visible_key(c.B, c.L, c.T, o)));
    const auto expected = chunk_positions(c.B, c.L, c.C, o.starts_BL, o.position_B);
    const auto got = chunk_positions(c.B, c.L, c.C, o.starts_BL, o.position_B, torch::kCUDA);
    EXPECT_TRUE(torch::equal(got.position_BL.cpu(), expected.position_BL));
    EXPECT_TRUE(torch::equal(got.next_B.cpu(), expected.next_B));
  }
}

TEST(ChunkAttention, GpuTakesBfloat16) {
  if (!megalodon::testing::has_gpu()) GTEST_SKIP() << megalodon::testing::kNoGpu;
  torch::manual_seed(14);
  const Case c = {2, 150, 2, 8, 12, 64, 30};
  const auto inputs = make_inputs(c);
  auto options = make_options(c);
  const Tensor dy = torch::randn({c.B, c.L, c.H, c.V}, torch::kFloat64);
  const auto expected = run(inputs, options, dy), narrow = run(inputs, options, dy.to(torch::kCUDA, torch::kBFloat16));
  options.precision = Precision::kBfloat16;
  const auto wide = run(inputs, options, dy.to(torch::kCUDA, torch::kFloat32));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_EQ(narrow[i].scalar_type(), torch::kBFloat16);
    EXPECT_EQ(wide[i].scalar_type(), torch::kFloat32);
    for (const Tensor& got : {narrow[i], wide[i]})
      EXPECT_LE((got.cpu().to(torch::kFloat64) - expected[i]).norm().item<double>(),
                1e-2 * expected[i].norm().item<double>())
          << "result " << i;
  }
}

TEST(ChunkAttention, EveryInstructionSetMatchesReference) {
  torch::manual_seed(11);
  for (int64_t rest = hwy::SupportedTargets() | HWY_SCALAR; rest != 0; rest &= rest - 1) {
    hwy::SetSupportedTargetsForTest(rest & -rest);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    SCOPED_TRACE(hwy::TargetName(rest & -rest));
    for (const size_t i : {8, 14, 17}) expect_parity(kCases[i], 0);
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

double distance(const Tensor& got, const Tensor& expected) {
  return (got.to(torch::kFloat64) - expected).norm().item<double>() / expected.norm().item<double>();
}

// The same factors, multiplied in bfloat16: as far from float64 as rounding the inputs alone takes it, up to a small
// factor.
TEST(ChunkAttention, Bfloat16ProductsAreAsExactAsTheirFactors) {
  if (!chunk_attention_has_pairs()) GTEST_SKIP() << "no instructions for bfloat16";
  for (const Case& c : kCases) {
    if (c.L <= 8) continue;
    for (const double dropout : {0.0, 0.3}) {
      SCOPED_TRACE(describe(c));
      auto inputs = make_inputs(c);
      auto options = make_options(c, dropout);
      inputs[0] *= std::exchange(options.scale, 1.0);
      const Tensor dy = torch::randn({c.B, c.L, c.H, c.V}, torch::kFloat64);
      const auto rounded = [](const Tensor& t) { return t.to(torch::kBFloat16).to(torch::kFloat64); };
      std::vector<Tensor> rounded_inputs;
      for (const Tensor& t : inputs) rounded_inputs.push_back(rounded(t));
      const auto exact = run(inputs, options, dy), near = run(rounded_inputs, options, rounded(dy));
      options.precision = Precision::kBfloat16;
      const auto got = run(inputs, options, dy.to(torch::kFloat32));
      for (size_t i = 0; i < got.size(); ++i)
        EXPECT_LE(distance(got[i], exact[i]), 3 * distance(near[i], exact[i]) + 1e-6) << "result " << i;
    }
  }
}

TEST(ChunkAttention, Bfloat16IsUsedWhereTheProcessorHasIt) {
  const Case c{1, 40, 2, 8, 8, 16};
  const auto inputs = make_inputs(c);
  auto options = make_options(c);
  options.scale = 1;
  const Tensor dy = torch::randn({c.B, c.L, c.H, c.V});
  const auto full = run(inputs, options, dy);
  options.precision = Precision::kBfloat16;
  EXPECT_EQ(torch::equal(run(inputs, options, dy)[0], full[0]), !chunk_attention_has_pairs() || use_reference());
}

TEST(ChunkAttention, LargeScoresStayFinite) {
  torch::manual_seed(3);
  const Case c = {1, 130, 1, 8, 8, 64};
  auto inputs = make_inputs(c);
  inputs[0] *= 60;  // scores of several hundreds of both signs: only the running maximum saves exp
  const Tensor dy = torch::randn({1, 130, 1, 8}, torch::kFloat64);
  const auto expected = run(inputs, make_options(c), dy), got = run(inputs, make_options(c), dy.to(torch::kFloat32));
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 5e-4)) << i;  // eps x |score| each
}

TEST(ChunkAttention, NanIsNotHidden) {
  Tensor q = torch::randn({1, 20, 1, 8}), v = torch::randn({1, 20, 1, 8}), k = q.clone();
  k[0][3][0][0] = std::nan("");
  const Tensor y = chunk_attention(q, k, v, {});
  EXPECT_TRUE(y.slice(1, 3).isnan().all().item<bool>());
}

TEST(ChunkAttention, GradientsMatchFiniteDifferences) {
  torch::manual_seed(4);
  const Case c = {2, 7, 2, 4, 3, 4, 3, true, true};
  const auto options = make_options(c, 0.25);
  const Tensor dy = torch::randn({c.B, c.L, c.H, c.V}, torch::kFloat64);
  check_gradients(
      [&](const std::vector<Tensor>& x) {
        auto o = options;
        o.prior_k_BTHK = x[3], o.prior_v_BTHV = x[4];
        return (chunk_attention(x[0], x[1], x[2], o) * dy).sum();
      },
      make_inputs(c));
}

TEST(ChunkAttention, TheScoreOfALoneKeyHasNoGradient) {
  const Case c = {2, 70, 2, 8, 24, 1};
  const auto alone = run(make_inputs(c), make_options(c), torch::randn({c.B, c.L, c.H, c.V}));
  EXPECT_EQ(alone[1].abs().max().item<float>(), 0) << "q";
  EXPECT_EQ(alone[2].abs().max().item<float>(), 0) << "k";
  EXPECT_GT(alone[3].abs().max().item<float>(), 0) << "v";
}

TEST(ChunkAttention, StreamingEqualsOnePass) {
  torch::manual_seed(5);
  std::mt19937 random(5);
  const Case c = {3, 150, 2, 8, 12, 43, 0, false, true};
  auto x = make_inputs(c);
  for (Tensor& t : x) t = t.to(torch::kFloat32);
  const auto options = make_options(c);
  const Tensor expected = chunk_attention(x[0], x[1], x[2], options);
  for (int trial = 0; trial < 5; ++trial) {
    Tensor position = torch::zeros({c.B}, torch::kInt64);
    std::vector<Tensor> parts;
    for (int64_t at = 0, length = 0; at < c.L; at += length) {
      length = std::min<int64_t>(c.L - at, std::uniform_int_distribution<int64_t>(1, trial == 0 ? 1 : 60)(random));
      const auto part = [&](const Tensor& t) { return t.slice(1, at, at + length); };
      auto o = options;
      o.starts_BL = part(options.starts_BL);
      o.position_B = position;
      const int64_t T = position.max().item<int64_t>();  // never more than an open chunk
      o.prior_k_BTHK = x[1].slice(1, at - T, at), o.prior_v_BTHV = x[2].slice(1, at - T, at);
      parts.push_back(chunk_attention(part(x[0]), part(x[1]), part(x[2]), o));
      position = chunk_positions(c.B, length, c.C, o.starts_BL, position).next_B;
    }
    EXPECT_TRUE(close(torch::cat(parts, 1), expected, 2e-6)) << "trial " << trial;
  }
}

TEST(ChunkAttention, DocumentsAndChunksAreIsolatedBitwise) {
  torch::manual_seed(6);
  const Case c = {1, 200, 2, 8, 12, 64};
  auto options = make_options(c);
  options.starts_BL = torch::zeros({1, 200}, torch::kBool);
  options.starts_BL[0][77] = true;  // chunks begin at 0, 64, 77, 141
  auto x = make_inputs(c);
  const Tensor dy = torch::randn({1, 200, 2, 12});
  const auto before = run(x, options, dy);
  for (Tensor& t : x) t.slice(1, 64, 77).normal_().mul_(100);
  const auto after = run(x, options, dy);
  for (size_t i = 0; i < before.size(); ++i)
    for (const auto& [from, to] : {std::pair<int64_t, int64_t>{0, 64}, {77, 200}})
      EXPECT_TRUE(torch::equal(before[i].slice(1, from, to), after[i].slice(1, from, to))) << i << " from " << from;
}

TEST(ChunkAttention, PriorKeysOutsideTheChunkAreNeverRead) {
  torch::manual_seed(7);
  const Case c = {2, 9, 1, 8, 8, 16, 7};
  auto x = make_inputs(c);
  auto options = make_options(c);
  options.position_B = torch::tensor({2, 0}, torch::kInt64);
  for (const size_t i : {3, 4}) x[i].slice(1, 0, 5).fill_(std::nan("")), x[i][1].fill_(std::nan(""));
  for (const Tensor& t : run(x, options, torch::randn({2, 9, 1, 8}))) EXPECT_FALSE(t.isnan().any().item<bool>());
}

TEST(ChunkAttention, DropoutDependsOnItsKeyAndKeepsTheMean) {
  torch::manual_seed(8);
  const Tensor q = torch::randn({2, 150, 2, 8}), v = torch::ones({2, 150, 2, 8});
  ChunkAttentionOptions o;
  o.dropout = 0.4;
  o.dropout_key = 1;
  const Tensor y = chunk_attention(q, q, v, o);
  EXPECT_TRUE(torch::equal(y, chunk_attention(q, q, v, o)));
  o.dropout_key = 2;
  EXPECT_FALSE(torch::equal(y, chunk_attention(q, q, v, o)));
  EXPECT_NEAR(y.mean().item<double>(), 1.0, 0.1);  // 600 independent rows, each of deviation below 0.82
  EXPECT_GT(y.select(-1, 0).std().item<double>(), 0.05);
}

TEST(ChunkAttention, ThreadsDoNotChangeABit) {
  torch::manual_seed(9);
  const Case c = {1, 300, 1, 64, 96, 256, 200};
  const auto x = make_inputs(c);
  const auto options = make_options(c, 0.1);
  const Tensor dy = torch::randn({c.B, c.L, c.H, c.V});
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = run(x, options, dy);
  at::set_num_threads(2);
  const auto two = run(x, options, dy);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(torch::equal(one[i], two[i])) << i;
}

TEST(ChunkAttention, OtherLayoutsAndTypes) {
  torch::manual_seed(10);
  const Tensor q = torch::randn({2, 3, 40, 8}),
               v = torch::randn({2, 3, 40, 10});  // [B,H,L,·], seen through a transpose
  ChunkAttentionOptions o;
  o.chunk_size = 16;
  const Tensor y = chunk_attention(q.transpose(1, 2), q.transpose(1, 2), v.transpose(1, 2), o);
  const Tensor qc = q.transpose(1, 2).contiguous(), vc = v.transpose(1, 2).contiguous();
  EXPECT_TRUE(torch::equal(y, chunk_attention(qc, qc, vc, o)));
  const Tensor qb = qc.to(torch::kBFloat16), vb = vc.to(torch::kBFloat16);
  const Tensor yb = chunk_attention(qb, qb, vb, o);
  EXPECT_EQ(yb.scalar_type(), torch::kBFloat16);
  EXPECT_TRUE(
      close(yb, chunk_attention(qb.to(torch::kFloat64), qb.to(torch::kFloat64), vb.to(torch::kFloat64), o), 4e-3));
}

TEST(ChunkAttention, IsATorchOperator) {
  const Tensor q = torch::randn({1, 5, 1, 4});
  torch::jit::Stack stack = {q, q, q, int64_t{2}};
  c10::Dispatcher::singleton()
      .findSchemaOrThrow("megalodon::chunk_attention", "")
      .schema()
      .checkAndNormalizeInputs(stack);
  c10::Dispatcher::singleton().findSchemaOrThrow("megalodon::chunk_attention", "").callBoxed(&stack);
  ChunkAttentionOptions o;
  o.chunk_size = 2;
  EXPECT_TRUE(torch::equal(stack[0].toTensor(), chunk_attention(q, q, q, o)));
}

void expect_error(const std::string& part, const std::function<void()>& call) {
  try {
    call();
    ADD_FAILURE() << "no error that says: " << part;
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find(part), std::string::npos) << e.what();
  }
}

TEST(ChunkAttention, WrongInputsAreRefused) {
  const Tensor q = torch::zeros({2, 4, 1, 8}), v = torch::zeros({2, 4, 1, 6});
  const auto with = [&](const std::function<void(ChunkAttentionOptions&)>& change) {
    return [=] {
      ChunkAttentionOptions o;
      o.chunk_size = 4;
      change(o);
      chunk_attention(q, q, v, o);
    };
  };
  using O = ChunkAttentionOptions;
  expect_error("k must have shape 2x4x1x8", [&] { chunk_attention(q, q.slice(1, 1), v, {}); });
  expect_error("v must have q's dtype", [&] { chunk_attention(q, q, v.to(torch::kFloat64), {}); });
  expect_error("float32, float64 or bfloat16",
               [&] { chunk_attention(q.to(torch::kHalf), q.to(torch::kHalf), v.to(torch::kHalf), {}); });
  expect_error("q must be [B,L,H,K]", [&] { chunk_attention(q[0], q[0], v[0], {}); });
  expect_error("no axis may be empty", [&] { chunk_attention(q.slice(1, 4), q.slice(1, 4), v.slice(1, 4), {}); });
  expect_error("chunk_size must be", with([](O& o) { o.chunk_size = -1; }));
  expect_error("dropout must be", with([](O& o) { o.dropout = 1; }));
  expect_error("starts must have shape 2x4", with([](O& o) { o.starts_BL = torch::zeros({4}, torch::kBool); }));
  expect_error("given together", with([](O& o) { o.prior_k_BTHK = torch::zeros({2, 3, 1, 8}); }));
  expect_error("prior_v must have shape 2x3x1x6", with([](O& o) {
                 o.prior_k_BTHK = torch::zeros({2, 3, 1, 8});
                 o.prior_v_BTHV = torch::zeros({2, 3, 1, 8});
               }));
  expect_error("below chunk_size = 4", with([](O& o) { o.position_B = torch::full({2}, 4, torch::kInt64); }));
  expect_error("number of prior keys", with([](O& o) { o.position_B = torch::full({2}, 1, torch::kInt64); }));
}

}  // namespace
}  // namespace megalodon::ops::chunk_attention_test
