#include "ops/cached_attention/cached_attention_kernel.h"
#include "ops/cuda_testing.h"

namespace megalodon::ops::cached_attention_cuda_test {
namespace {

using namespace testing;

constexpr auto kFloat32 = NumberType::kFloat32, kBfloat16 = NumberType::kBfloat16;

struct Shape {
  int64_t H, G, K, V, C;
  bool alibi = false;

  std::vector<float> slopes() const {
    std::vector<float> list;
    for (int64_t h = 0; alibi && h < H; ++h) list.push_back(1 / static_cast<float>(h + 2));
    return list;
  }
};

// Fours and not; fewer columns than a group of threads has, and more than all have; a span, and many. Heads of keys of
// one query a step, of two, of five, so that eight begin and end within a step, and of more than eight. Biases.
const std::vector<Shape> kShapes = {
    {1, 1, 8, 12, 16},   {3, 3, 6, 10, 64}, {2, 2, 64, 200, 100}, {1, 1, 130, 70, 96}, {1, 1, 256, 2052, 70},
    {4, 4, 64, 64, 100}, {4, 2, 6, 10, 64}, {10, 2, 64, 72, 100}, {17, 1, 32, 20, 70}, {6, 2, 64, 64, 100, true}};

std::string describe(const Shape& s) {
  std::string text;
  for (const auto& [name, value] : {std::pair{"H", s.H}, {"G", s.G}, {"K", s.K}, {"V", s.V}, {"C", s.C}})
    text += std::string(text.empty() ? "" : " ") + name + " " + std::to_string(value);
  return text + (s.alibi ? " alibi" : "");
}

/// A row of a call: what its stream has read, and the steps to come.
struct Row {
  Row(const Shape& s, int64_t position, int64_t L, NumberType step_type, uint32_t seed)
      : position(position),
        // What lies behind the steps that were written must not matter.
        k(padded(random_numbers(static_cast<size_t>(position * s.G * s.K), 5 * seed), s.C * s.G * s.K)),
        v(padded(random_numbers(static_cast<size_t>(position * s.G * s.V), 5 * seed + 1), s.C * s.G * s.V)),
        new_q(random_numbers(static_cast<size_t>(L * s.H * s.K), 5 * seed + 2, 1 / std::sqrt(static_cast<float>(s.K)),
                             step_type)),
        new_k(random_numbers(static_cast<size_t>(L * s.G * s.K), 5 * seed + 3, 1, step_type)),
        new_v(random_numbers(static_cast<size_t>(L * s.G * s.V), 5 * seed + 4, 1, step_type)) {}
  static std::vector<float> padded(std::vector<float> values, int64_t size) {
    values.resize(static_cast<size_t>(size), NAN);
    return values;
  }

  int64_t position;
  std::vector<float> k, v, new_q, new_k, new_v;
};

std::vector<Row> make_rows(const Shape& s, const std::vector<int64_t>& positions, int64_t L, NumberType step_type) {
  std::vector<Row> rows;
  for (const int64_t position : positions)
    rows.emplace_back(s, position, L, step_type, static_cast<uint32_t>(rows.size()) + 1);
  return rows;
}

std::vector<float> joined(const std::vector<Row>& rows, std::vector<float> Row::*part) {
  std::vector<float> all;
  for (const Row& row : rows) all.insert(all.end(), (row.*part).begin(), (row.*part).end());
  return all;
}

/// What a call leaves: y of all rows, and their caches.
struct Result {
  std::vector<float> y;
  std::vector<std::vector<float>> k, v;
};

/// From and to numbers as the device's caches have them, which round what they are given. In float32 on the CPU: its
/// kernel's bfloat16 caches are tested beside it.
Result on_cpu(const Shape& s, const std::vector<Row>& rows, int64_t L, NumberType type) {
  const auto rounded = [&](std::vector<float> values) {
    if (type == kBfloat16)
      for (float& x : values) x = round_to_bfloat16(x);
    return values;
  };
  Result result;
  for (const Row& row : rows) result.k.push_back(rounded(row.k)), result.v.push_back(rounded(row.v));
  std::vector<CachedAttentionRow> table;
  for (size_t b = 0; b < rows.size(); ++b) table.push_back({result.k[b].data(), result.v[b].data(), rows[b].position});
  const auto q = joined(rows, &Row::new_q), k = rounded(joined(rows, &Row::new_k)),
             v = rounded(joined(rows, &Row::new_v));
  result.y.resize(rows.size() * static_cast<size_t>(L * s.H * s.V));
  const auto slopes = s.slopes();
  cached_attention_cpu({q.data(), k.data(), v.data(), kFloat32, table.data(), kFloat32,
                        s.alibi ? slopes.data() : nullptr, result.y.data(), static_cast<int64_t>(rows.size()), L, s.H,
                        s.G, s.K, s.V, s.C});
  return result;
}

Result on_gpu(const Shape& s, const std::vector<Row>& rows, int64_t L, NumberType type, NumberType step_type) {
  TestQueue queue;
  std::vector<std::unique_ptr<DeviceArray<float>>> k_caches, v_caches;
  std::vector<int64_t> addresses;
  const auto address = [](void* memory) { return static_cast<int64_t>(reinterpret_cast<uintptr_t>(memory)); };
  for (const Row& row : rows) {
    k_caches.push_back(std::make_unique<DeviceArray<float>>(row.k, type));
    v_caches.push_back(std::make_unique<DeviceArray<float>>(row.v, type));
    addresses.insert(addresses.end(),
                     {address(k_caches.back()->numbers()), address(v_caches.back()->numbers()), row.position});
  }
  DeviceArray<int64_t> table(addresses);
  DeviceArray<float> q(joined(rows, &Row::new_q), step_type), k(joined(rows, &Row::new_k), step_type),
      v(joined(rows, &Row::new_v), step_type), y(rows.size() * static_cast<size_t>(L * s.H * s.V), step_type);
  DeviceArray<float> slopes(s.slopes());
  cached_attention_cuda(
      {q.numbers(), k.numbers(), v.numbers(), step_type, reinterpret_cast<const CachedAttentionRow*>(table.data()),
       type, s.alibi ? slopes.data() : nullptr, y.numbers(), static_cast<int64_t>(rows.size()), L, s.H, s.G, s.K, s.V,
       s.C},
      queue);
  queue.wait();
  Result result;
  result.y = y.values();
  for (const auto& cache : k_caches) result.k.push_back(cache->values());
  for (const auto& cache : v_caches) result.v.push_back(cache->values());
  return result;
}

/// NaN where NaN is expected, and the same numbers.
void expect_same_cache(const std::vector<std::vector<float>>& got, const std::vector<std::vector<float>>& expected) {
  for (size_t b = 0; b < expected.size(); ++b)
    for (size_t i = 0; i < expected[b].size(); ++i)
      ASSERT_TRUE(got[b][i] == expected[b][i] || (std::isnan(got[b][i]) && std::isnan(expected[b][i])))
          << "row " << b << ", number " << i << ": got " << got[b][i] << ", expected " << expected[b][i];
}

class CachedAttentionCuda : public ::testing::TestWithParam<std::tuple<NumberType, NumberType>> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  }
  NumberType type_ = std::get<0>(GetParam()), step_type_ = std::get<1>(GetParam());
};
INSTANTIATE_TEST_SUITE_P(Types, CachedAttentionCuda,
                         ::testing::Combine(::testing::Values(kFloat32, kBfloat16),
                                            ::testing::Values(kFloat32, kBfloat16)),
                         [](const auto& info) {
                           const auto name = [](NumberType type) { return type == kBfloat16 ? "Bfloat16" : "Float32"; };
                           return std::string(name(std::get<0>(info.param))) + "Caches" +
                                  name(std::get<1>(info.param)) + "Steps";
                         });

TEST_P(CachedAttentionCuda, IsTheCpus) {
  for (const Shape& s : kShapes)
    for (const int64_t L : {1, 8}) {
      // The first steps of a chunk, its last, and steps on either side of a span's end.
      std::vector<int64_t> positions = {0, s.C - L};
      if (s.C > 40) positions.insert(positions.end(), {31, 32});
      SCOPED_TRACE(::testing::Message() << describe(s) << " L " << L);
      const auto rows = make_rows(s, positions, L, step_type_);
      const Result got = on_gpu(s, rows, L, type_, step_type_), expected = on_cpu(s, rows, L, type_);
      EXPECT_TRUE(close(got.y, expected.y, tolerance(step_type_, 2e-6)));
      expect_same_cache(got.k, expected.k);
      expect_same_cache(got.v, expected.v);
    }
}

/// Bit for bit: who decodes greedily must not get another text because of a neighbour, nor because steps came together.
TEST_P(CachedAttentionCuda, NeitherNeighboursNorStepsThatComeTogetherChangeAStep) {
  for (const Shape& s : kShapes) {
    constexpr int64_t kSteps = 3;
    const std::vector<int64_t> positions = {s.C - kSteps, 0, s.C / 2};
    const auto rows = make_rows(s, positions, kSteps, step_type_);
    const Result together = on_gpu(s, rows, kSteps, type_, step_type_);
    const auto size = static_cast<size_t>(s.H * s.V);
    for (size_t b = 0; b < rows.size(); ++b) {
      Row row = rows[b];
      std::vector<float> y;
      for (int64_t l = 0; l < kSteps; ++l) {
        Row step = row;
        const auto only = [&](std::vector<float>& values) {
          const auto count = values.size() / kSteps, at = static_cast<size_t>(l) * count;
          values = {values.begin() + static_cast<std::ptrdiff_t>(at),
                    values.begin() + static_cast<std::ptrdiff_t>(at + count)};
        };
        only(step.new_q), only(step.new_k), only(step.new_v);
        const Result alone = on_gpu(s, {step}, 1, type_, step_type_);
        y.insert(y.end(), alone.y.begin(), alone.y.end());
        row.k = alone.k[0], row.v = alone.v[0], ++row.position;
      }
      const std::vector<float> expected(together.y.begin() + static_cast<std::ptrdiff_t>(b * kSteps * size),
                                        together.y.begin() + static_cast<std::ptrdiff_t>((b + 1) * kSteps * size));
      EXPECT_EQ(y, expected) << "row " << b << ", " << describe(s);
    }
  }
}

TEST_P(CachedAttentionCuda, StaysRightWhereScoresAreLarge) {
  const Shape s = kShapes[2];
  auto rows = make_rows(s, {s.C - 1, 40}, 1, step_type_);
  for (Row& row : rows)
    for (float& x : row.new_q) x *= 256;  // exponentials of all but the best few keys are 0
  EXPECT_TRUE(close(on_gpu(s, rows, 1, type_, step_type_).y, on_cpu(s, rows, 1, type_).y, tolerance(step_type_, 2e-4)));
}

TEST(CachedAttentionCudaArguments, MoreStepsThanAFewAreRefused) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Shape s = kShapes[0];
  EXPECT_THROW(on_gpu(s, make_rows(s, {0}, 9, kFloat32), 9, kFloat32, kFloat32), std::runtime_error);
}

}  // namespace
}  // namespace megalodon::ops::cached_attention_cuda_test
