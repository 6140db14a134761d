// query_key on a GPU against the CPU kernel.
#include <string>

#include "ops/cuda_testing.h"
#include "ops/query_key/query_key_kernel.h"

namespace megalodon::ops::query_key_cuda_test {
namespace {

using testing::DeviceArray;

struct Case {
  int64_t tokens, heads, head_dim, first, period;
  double eps = 1e-5;
};

// One pair, odd multiples of two, groups of 1 to 32 lanes, heads of more than one tile (the last one partly filled),
// idle groups, few tokens with many heads, groups that take several heads, tokens for several rows of partial sums, far
// positions, an eps that counts.
const std::vector<Case> kCases = {{1, 1, 2, 0, 1},         {1, 3, 64, 2047, 1},      {7, 2, 6, 5, 7},
                                  {129, 3, 34, 0, 33},     {40, 1, 256, 999000, 40}, {33, 4, 12, 7, 33},
                                  {5, 13, 128, 0, 5},      {301, 2, 256, 0, 100},    {1000, 3, 64, 0, 256},
                                  {20, 2, 1028, 10, 3},    {19, 2, 1030, 10, 3},     {70, 1, 258, 0, 70},
                                  {20000, 2, 16, 0, 4096}, {10000, 1, 256, 0, 2048}, {3000, 3, 200, 0, 512},
                                  {5000, 3, 130, 0, 512},  {50, 2, 24, 0, 50, 0.5}};

/// Numbers as both sides hold them.
struct Problem {
  Case c;
  NumberType z_type, y_type;
  std::vector<float> z, scale, shift, dq, dk, frequencies;
  std::vector<int64_t> position;
};

Problem make_problem(const Case& c, NumberType z_type, NumberType y_type) {
  const auto row = static_cast<size_t>(c.heads * c.head_dim), all = static_cast<size_t>(c.tokens) * row;
  Problem p{c,
            z_type,
            y_type,
            testing::random_numbers(all, 1, /*scale=*/2, z_type),
            testing::random_numbers(2 * row, 2),
            testing::random_numbers(2 * row, 3),
            testing::random_numbers(all, 4, 1, y_type),
            testing::random_numbers(all, 5, 1, y_type),
            {},
            {}};
  for (int64_t i = 0; i < c.head_dim / 2; ++i)
    p.frequencies.push_back(
        static_cast<float>(std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(c.head_dim))));
  for (int64_t t = 0; t < c.tokens; ++t) p.position.push_back(c.first + t % c.period);
  return p;
}

struct Results {
  std::vector<float> q, k, dz, dscale, dshift;
};

/// All in float32.
Results on_cpu(const Problem& p) {
  const QueryKeyArgs args{p.c.tokens,           p.c.heads,  p.c.head_dim,   p.c.eps,        NumberType::kFloat32,
                          NumberType::kFloat32, p.z.data(), p.scale.data(), p.shift.data(), p.position.data(),
                          p.frequencies.data()};
  const auto of = [](const std::vector<float>& like) { return std::vector<float>(like.size()); };
  Results r{of(p.z), of(p.z), of(p.z), of(p.scale), of(p.scale)};
  query_key_forward_cpu(args, {r.q.data(), r.k.data()});
  query_key_backward_cpu(args, {p.dq.data(), p.dk.data(), r.dz.data(), r.dscale.data(), r.dshift.data()});
  return r;
}

Results on_gpu(const Problem& p) {
  DeviceArray<float> z(p.z, p.z_type), scale(p.scale), shift(p.shift), frequencies(p.frequencies);
  DeviceArray<float> dq(p.dq, p.y_type), dk(p.dk, p.y_type), q(p.z.size(), p.y_type), k(p.z.size(), p.y_type);
  DeviceArray<float> dz(p.z.size(), p.z_type), dscale(p.scale.size()), dshift(p.scale.size());
  DeviceArray<int64_t> position(p.position);
  const QueryKeyArgs args{p.c.tokens,  p.c.heads,    p.c.head_dim, p.c.eps,         p.z_type,          p.y_type,
                          z.numbers(), scale.data(), shift.data(), position.data(), frequencies.data()};
  testing::TestQueue queue;
  query_key_forward_cuda(args, {q.numbers(), k.numbers()}, queue);
  query_key_backward_cuda(args, {dq.numbers(), dk.numbers(), dz.numbers(), dscale.data(), dshift.data()}, queue);
  queue.wait();
  return {q.values(), k.values(), dz.values(), dscale.values(), dshift.values()};
}

std::string describe(const Problem& p) {
  const auto name = [](NumberType type) { return type == NumberType::kBfloat16 ? " bfloat16" : " float32"; };
  return std::to_string(p.c.tokens) + " tokens, " + std::to_string(p.c.heads) + " heads of " +
         std::to_string(p.c.head_dim) + name(p.z_type) + " to" + name(p.y_type);
}

TEST(QueryKeyCuda, MatchesTheCpu) {
  if (!testing::has_gpu()) GTEST_SKIP() << testing::kNoGpu;
  for (const Case& c : kCases) {
    for (const NumberType z_type : {NumberType::kFloat32, NumberType::kBfloat16}) {
      for (const NumberType y_type : {NumberType::kFloat32, NumberType::kBfloat16}) {
        const Problem p = make_problem(c, z_type, y_type);
        SCOPED_TRACE(describe(p));
        const Results got = on_gpu(p), expected = on_cpu(p);
        EXPECT_TRUE(testing::close(got.q, expected.q, testing::tolerance(y_type, 2e-6))) << "q";
        EXPECT_TRUE(testing::close(got.k, expected.k, testing::tolerance(y_type, 2e-6))) << "k";
        EXPECT_TRUE(testing::close(got.dz, expected.dz, testing::tolerance(z_type, 2e-6))) << "dz";
        EXPECT_TRUE(testing::close(got.dscale, expected.dscale, 2e-6)) << "dscale";
        EXPECT_TRUE(testing::close(got.dshift, expected.dshift, 2e-6)) << "dshift";
      }
    }
  }
}

TEST(QueryKeyCuda, SameBitsEveryTime) {
  if (!testing::has_gpu()) GTEST_SKIP() << testing::kNoGpu;
  const Problem p = make_problem({3000, 3, 64, 0, 256}, NumberType::kBfloat16, NumberType::kFloat32);
  const Results one = on_gpu(p), two = on_gpu(p);
  EXPECT_EQ(one.q, two.q);
  EXPECT_EQ(one.dz, two.dz);
  EXPECT_EQ(one.dscale, two.dscale);
  EXPECT_EQ(one.dshift, two.dshift);
}

TEST(QueryKeyCuda, UnalignedMemory) {
  if (!testing::has_gpu()) GTEST_SKIP() << testing::kNoGpu;
  const Problem p = make_problem({50, 2, 16, 0, 50}, NumberType::kFloat32, NumberType::kFloat32);
  const Results expected = on_cpu(p);
  std::vector<float> shifted(1, 0.0f);  // z begins at the second element
  shifted.insert(shifted.end(), p.z.begin(), p.z.end());
  DeviceArray<float> z(shifted), scale(p.scale), shift(p.shift), frequencies(p.frequencies), q(p.z.size()),
      k(p.z.size());
  DeviceArray<int64_t> position(p.position);
  testing::TestQueue queue;
  query_key_forward_cuda({p.c.tokens, p.c.heads, p.c.head_dim, p.c.eps, p.z_type, p.y_type, z.data() + 1, scale.data(),
                          shift.data(), position.data(), frequencies.data()},
                         {q.data(), k.data()}, queue);
  queue.wait();
  EXPECT_TRUE(testing::close(q.values(), expected.q, 2e-6));
  EXPECT_TRUE(testing::close(k.values(), expected.k, 2e-6));
}

}  // namespace
}  // namespace megalodon::ops::query_key_cuda_test
