// The kernels against those of the CPU, forward and backward: chunks whole and partial, prior keys, documents, several
// rows and heads, dropout, and every way in which the work is cut into blocks.
#include "ops/chunk_attention/chunk_attention_kernel.h"
#include "ops/cuda_testing.h"

namespace megalodon::ops::chunk_attention_cuda_test {
namespace {

using namespace testing;

constexpr NumberType kFloat = NumberType::kFloat32, kHalf = NumberType::kBfloat16;

struct Case {
  int64_t B, L, H, K, V, C;
  int64_t T = 0;          // prior keys
  bool position = false;  // rows stand at different positions of their chunk
  bool starts = false;
  double dropout = 0;
};

const std::vector<Case> kCases = {
    // A few queries.
    {1, 1, 1, 8, 8, 16},
    {3, 1, 1, 256, 96, 64, 63, true},
    {2, 1, 3, 64, 200, 256, 130},
    {2, 1, 3, 64, 200, 256, 130, false, false, 0.3},
    {1, 1, 1, 256, 2048, 2048, 2047},
    {2, 1, 1, 5, 7, 0, 300},
    {3, 7, 2, 8, 12, 16, 9},
    {3, 6, 2, 6, 10, 64, 63, true, false, 0.3},
    {2, 8, 2, 5, 7, 16, 15, true, true},
    // Chunks, whole and partial.
    {3, 15, 2, 8, 12, 16},
    {1, 16, 3, 6, 10, 16},
    {2, 17, 1, 64, 96, 16},
    {1, 129, 1, 8, 16, 43},
    {2, 42, 2, 6, 10, 43, 0, false, false, 0.3},
    {1, 300, 3, 64, 96, 64},
    {1, 300, 2, 64, 200, 256, 0, false, false, 0.3},
    {2, 512, 2, 64, 128, 256},
    // Prior keys: a chunk to finish, then whole ones of every row, then the beginning of one.
    {2, 800, 2, 16, 24, 256, 100},
    {5, 700, 1, 16, 24, 256, 100, false, false, 0.3},
    {1, 300, 1, 256, 2048, 200, 50},
    {2, 97, 2, 130, 70, 0, 100},
    // Documents and rows at different positions.
    {3, 129, 2, 8, 12, 43, 42, true, true},
    {2, 300, 1, 64, 96, 256, 200, true, true, 0.3},
    {3, 100, 2, 8, 6, 0, 0, false, true},
    {2, 65, 1, 8, 8, 64, 10, true, true},
    // Odd widths.
    {3, 77, 2, 33, 17, 0},
    {2, 65, 1, 7, 9, 64, 11, true, true, 0.3},
    // Several blocks of queries and keys, several groups of rows.
    {24, 700, 1, 8, 8, 0},
    {25, 650, 1, 8, 12, 256, 200, true, true},
    {28, 650, 1, 8, 12, 600, 530, false, false, 0.2},
    {1, 1500, 1, 32, 40, 1400},
    // Queries that see one key: gradients of exactly 0.
    {2, 40, 2, 8, 200, 1},
};

std::string describe(const Case& c) {
  std::string text;
  for (const auto& [name, value] :
       {std::pair{"B", c.B}, {"L", c.L}, {"H", c.H}, {"K", c.K}, {"V", c.V}, {"C", c.C}, {"T", c.T}})
    text += name + std::to_string(value) + " ";
  return text + (c.position ? "position " : "") + (c.starts ? "starts " : "") + (c.dropout > 0 ? "dropout" : "");
}

/// First visible keys, rows at `position`, documents beginning at random.
std::vector<int64_t> make_begin(const Case& c) {
  std::mt19937 random(3);
  std::vector<int64_t> begin;
  for (int64_t b = 0; b < c.B; ++b) {
    int64_t position = c.position ? std::uniform_int_distribution<int64_t>(0, c.T)(random) : c.T;
    for (int64_t t = 0; t < c.L; ++t) {
      const bool start = c.starts && std::uniform_int_distribution<int64_t>(0, c.L)(random) < 3;
      if (start || (c.C > 0 && position == c.C)) position = 0;
      begin.push_back(c.T + t - position++);
    }
  }
  return begin;
}

/// Everything on the host; of a kind that either side writes results of, too.
struct Numbers {
  std::vector<float> q, k, v, prior_k, prior_v, dy;
  std::vector<int64_t> begin;
};

Numbers make_numbers(const Case& c, NumberType type) {
  const auto make = [&](int64_t size, uint32_t seed) {
    return random_numbers(static_cast<size_t>(size), seed, 1, type);
  };
  return {make(c.B * c.L * c.H * c.K, 1),
          make(c.B * c.L * c.H * c.K, 2),
          make(c.B * c.L * c.H * c.V, 3),
          make(c.B * c.T * c.H * c.K, 4),
          make(c.B * c.T * c.H * c.V, 5),
          make(c.B * c.L * c.H * c.V, 6),
          make_begin(c)};
}

ChunkAttentionArgs make_args(const Case& c) {
  ChunkAttentionArgs a{};
  a.B = c.B, a.L = c.L, a.T = c.T, a.H = c.H, a.K = c.K, a.V = c.V;
  a.scale = 2 / std::sqrt(static_cast<float>(c.K));
  a.dropout = c.dropout, a.dropout_key = 77;
  a.window = c.C > 0 ? c.C : c.T + c.L;
  a.phase = c.position || c.starts ? -1 : c.T;
  return a;
}

/// y, lse, dq, dk, dv, dprior_k, dprior_v.
using Results = std::vector<std::vector<float>>;

Results run_cpu(const Case& c, Numbers n) {
  Results r = {n.v, std::vector<float>(static_cast<size_t>(c.B * c.H * c.L)), n.q, n.k, n.v, n.prior_k, n.prior_v};
  std::vector<float> delta = r[1];
  ChunkAttentionArgs a = make_args(c);
  a.type = a.y_type = kFloat;
  a.q = n.q.data(), a.k = n.k.data(), a.v = n.v.data(), a.prior_k = n.prior_k.data(), a.prior_v = n.prior_v.data();
  a.begin = n.begin.data(), a.y = r[0].data(), a.lse = r[1].data();
  chunk_attention_forward_cpu(a);
  chunk_attention_backward_cpu({a, n.dy.data(), n.dy.data(), kFloat, r[2].data(), r[3].data(), r[4].data(), r[5].data(),
                                r[6].data(), delta.data()});
  return r;
}

Results run_cuda(const ChunkAttentionArgs& settings, const Numbers& n, NumberType type, NumberType result) {
  DeviceArray<float> q(n.q, type), k(n.k, type), v(n.v, type), prior_k(n.prior_k, type), prior_v(n.prior_v, type);
  DeviceArray<float> dy(n.dy, type), y(n.v.size(), result), dq(n.q.size(), result), dk(n.k.size(), result);
  DeviceArray<float> dv(n.v.size(), result), dprior_k(n.prior_k.size(), result), dprior_v(n.prior_v.size(), result);
  const auto rows = static_cast<size_t>(settings.B * settings.H * settings.L);
  DeviceArray<float> lse(rows), delta(rows);
  DeviceArray<int64_t> begin(n.begin);
  ChunkAttentionArgs a = settings;
  a.type = type, a.y_type = result;
  a.q = q.numbers(), a.k = k.numbers(), a.v = v.numbers(), a.prior_k = prior_k.numbers(), a.prior_v = prior_v.numbers();
  a.begin = begin.data(), a.y = y.numbers(), a.lse = lse.data();
  TestQueue queue;
  chunk_attention_forward_cuda(a, queue);
  chunk_attention_backward_cuda({a, nullptr, dy.numbers(), result, dq.numbers(), dk.numbers(), dv.numbers(),
                                 dprior_k.numbers(), dprior_v.numbers(), delta.data()},
                                queue);
  queue.wait();
  return {y.values(), lse.values(), dq.values(), dk.values(), dv.values(), dprior_k.values(), dprior_v.values()};
}

void expect_same(const Case& c, NumberType type, NumberType result) {
  SCOPED_TRACE(describe(c));
  const Numbers n = make_numbers(c, type);
  const Results expected = run_cpu(c, n), got = run_cuda(make_args(c), n, type, result);
  // Of bfloat16, probabilities and their gradients are rounded too, and y is where it is one.
  EXPECT_TRUE(close(got[0], expected[0], type == kHalf ? 1e-2 : 1e-5)) << "y";
  EXPECT_TRUE(close(got[1], expected[1], 1e-5)) << "lse";
  const char* names[] = {"dq", "dk", "dv", "dprior_k", "dprior_v"};
  // delta is a sum over the rounded y; of one query's gradients nothing averages that out.
  const double tolerance = type == kFloat ? 2e-5 : c.L == 1 ? 4e-2 : 1.5e-2;
  for (size_t i = 2; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], tolerance)) << names[i - 2];
}

TEST(ChunkAttentionCuda, Float32) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const Case& c : kCases) expect_same(c, kFloat, kFloat);
}

TEST(ChunkAttentionCuda, Bfloat16) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const Case& c : kCases) expect_same(c, kHalf, kHalf);
}

TEST(ChunkAttentionCuda, Bfloat16ProductsOfFloat32Tensors) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const size_t i : {2, 12, 14, 17, 21, 22, 25}) expect_same(kCases[i], kHalf, kFloat);
}

// With a known phase keys before it are outside of every stretch, and chunks do not meet in any product.
TEST(ChunkAttentionCuda, NothingOutsideTheChunkIsRead) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const int64_t L : {3, 40}) {
    const Case c = {2, L, 2, 8, 12, 64, 30};
    Numbers n = make_numbers(c, kFloat);
    ChunkAttentionArgs a = make_args(c);
    a.phase = 20;
    for (size_t i = 0; i < n.begin.size(); ++i) n.begin[i] = 10;  // both end before the chunk does
    const auto row = static_cast<size_t>(c.H * c.K), value_row = static_cast<size_t>(c.H * c.V);
    for (size_t b = 0; b < 2; ++b) {
      std::fill_n(n.prior_k.begin() + static_cast<int64_t>(b * 30 * row), 10 * row, std::nanf(""));
      std::fill_n(n.prior_v.begin() + static_cast<int64_t>(b * 30 * value_row), 10 * value_row, std::nanf(""));
    }
    const Results got = run_cuda(a, n, kFloat, kFloat);
    for (const auto& list : got)
      EXPECT_TRUE(std::none_of(list.begin(), list.end(), [](float x) { return std::isnan(x); })) << "L " << L;
    EXPECT_TRUE(
        std::all_of(got[5].begin(), got[5].begin() + static_cast<int64_t>(10 * row), [](float x) { return x == 0; }));
  }
}

TEST(ChunkAttentionCuda, NanIsNotHidden) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const int64_t L : {1, 20}) {
    const Case c = {1, L, 1, 8, 8, 0, 100};
    Numbers n = make_numbers(c, kFloat);
    n.prior_k[3 * 8] = std::nanf("");
    const auto y = run_cuda(make_args(c), n, kFloat, kFloat)[0];
    EXPECT_TRUE(std::all_of(y.begin(), y.end(), [](float x) { return std::isnan(x); })) << "L " << L;
  }
}

TEST(ChunkAttentionCuda, LargeScoresStayFinite) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const int64_t L : {4, 130}) {
    const Case c = {1, L, 1, 8, 8, 256, 100};
    Numbers n = make_numbers(c, kFloat);
    for (float& x : n.q) x *= 60;  // scores of several hundreds of both signs
    const Results expected = run_cpu(c, n), got = run_cuda(make_args(c), n, kFloat, kFloat);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 5e-4)) << L << ", " << i;
  }
}

TEST(ChunkAttentionCuda, TwoRunsGiveTheSameBits) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const size_t i : {2, 17, 22}) {
    const Case& c = kCases[i];
    const Numbers n = make_numbers(c, kHalf);
    EXPECT_EQ(run_cuda(make_args(c), n, kHalf, kHalf), run_cuda(make_args(c), n, kHalf, kHalf)) << describe(c);
  }
}

TEST(ChunkAttentionCuda, AWindowThatCannotBeIsRefused) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  ChunkAttentionArgs a = make_args({1, 1, 1, 8, 8, 16, 3});
  a.phase = 4;
  TestQueue queue;
  EXPECT_THROW(chunk_attention_forward_cuda(a, queue), std::runtime_error);
}

}  // namespace
}  // namespace megalodon::ops::chunk_attention_cuda_test
