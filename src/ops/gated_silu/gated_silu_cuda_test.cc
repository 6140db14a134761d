#include <limits>

#include "ops/cuda_testing.h"
#include "ops/gated_silu/gated_silu_kernel.h"

namespace megalodon::ops {
namespace {

using namespace testing;

constexpr auto kFloat32 = NumberType::kFloat32;
constexpr auto kBfloat16 = NumberType::kBfloat16;

struct Case {
  size_t size, shift;  // arrays begin `shift` elements behind an aligned address
  NumberType a_type, b_type;
  bool gated;
};

struct Results {
  std::vector<float> h, da, db;
};

/// `values` behind `shift` zeros.
std::vector<float> shifted(const std::vector<float>& values, size_t shift) {
  std::vector<float> list(shift);
  list.insert(list.end(), values.begin(), values.end());
  return list;
}

void* begin_of(DeviceArray<float>& array, size_t shift) {
  return static_cast<uint8_t*>(array.numbers()) + shift * (array.type() == kBfloat16 ? 2 : 4);
}

/// What was written from `shift` on; what lies before must be untouched.
std::vector<float> result_of(const DeviceArray<float>& array, size_t shift) {
  const std::vector<float> list = array.values();
  for (size_t i = 0; i < shift; ++i) EXPECT_TRUE(std::isnan(list[i]));
  return {list.begin() + static_cast<std::ptrdiff_t>(shift), list.end()};
}

Results on_gpu(const Case& c, const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& dh) {
  TestQueue queue;
  DeviceArray<float> a_device(shifted(a, c.shift), c.a_type), b_device(shifted(b, c.shift), c.b_type);
  DeviceArray<float> dh_device(shifted(dh, c.shift), c.a_type), h(c.size + c.shift, c.a_type);
  DeviceArray<float> da(c.size + c.shift, c.a_type), db(c.size + c.shift, c.b_type);
  const auto size = static_cast<int64_t>(c.size);
  void* b_begin = c.gated ? begin_of(b_device, c.shift) : nullptr;
  gated_silu_forward_cuda({.a_type = c.a_type,
                           .b_type = c.b_type,
                           .a = begin_of(a_device, c.shift),
                           .b = b_begin,
                           .h = begin_of(h, c.shift),
                           .size = size},
                          queue);
  gated_silu_backward_cuda({.a_type = c.a_type,
                            .b_type = c.b_type,
                            .a = begin_of(a_device, c.shift),
                            .b = b_begin,
                            .dh = begin_of(dh_device, c.shift),
                            .da = begin_of(da, c.shift),
                            .db = c.gated ? begin_of(db, c.shift) : nullptr,
                            .size = size},
                           queue);
  queue.wait();
  return {result_of(h, c.shift), result_of(da, c.shift), result_of(db, c.shift)};
}

/// In float32.
Results on_cpu(const Case& c, const std::vector<float>& a, const std::vector<float>& b, const std::vector<float>& dh) {
  Results r{std::vector<float>(c.size), std::vector<float>(c.size), std::vector<float>(c.size)};
  const auto size = static_cast<int64_t>(c.size);
  const float* b_begin = c.gated ? b.data() : nullptr;
  gated_silu_forward_cpu(
      {.a_type = kFloat32, .b_type = kFloat32, .a = a.data(), .b = b_begin, .h = r.h.data(), .size = size});
  gated_silu_backward_cpu({.a_type = kFloat32,
                           .b_type = kFloat32,
                           .a = a.data(),
                           .b = b_begin,
                           .dh = dh.data(),
                           .da = r.da.data(),
                           .db = c.gated ? r.db.data() : nullptr,
                           .size = size});
  return r;
}

void compare(const Case& c) {
  SCOPED_TRACE(::testing::Message() << c.size << " elements behind " << c.shift << ", a "
                                    << (c.a_type == kBfloat16 ? "bfloat16" : "float32") << ", b "
                                    << (c.b_type == kBfloat16 ? "bfloat16" : "float32") << ", gated " << c.gated);
  const auto a = random_numbers(c.size, 1, 4, c.a_type), b = random_numbers(c.size, 2, 1, c.b_type),
             dh = random_numbers(c.size, 3, 1, c.a_type);
  const Results got = on_gpu(c, a, b, dh), expected = on_cpu(c, a, b, dh);
  EXPECT_TRUE(close(got.h, expected.h, tolerance(c.a_type, 1e-6)));
  EXPECT_TRUE(close(got.da, expected.da, tolerance(c.a_type, 1e-6)));
  if (!c.gated) return;
  EXPECT_TRUE(close(got.db, expected.db, tolerance(c.b_type, 1e-6)));
}

TEST(GatedSiluCuda, AgreesWithTheCpu) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const std::pair<NumberType, NumberType> types[] = {
      {kFloat32, kFloat32}, {kBfloat16, kFloat32}, {kBfloat16, kBfloat16}};
  for (const size_t size : {1, 3, 4, 31, 2047, 2048, 2049, 4096, 16385, 100003})
    for (const size_t shift : {0, 1})
      for (const auto& [a_type, b_type] : types)
        for (const bool gated : {false, true}) compare({size, shift, a_type, b_type, gated});
}

TEST(GatedSiluCuda, NothingIsNothing) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  EXPECT_TRUE(on_gpu({0, 0, kFloat32, kFloat32, true}, {}, {}, {}).h.empty());
}

// Elementwise and relative, which a bound on the largest magnitude would not see.
TEST(GatedSiluCuda, SmallValuesKeepTheirDigits) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  std::vector<float> a;
  for (int i = -2000; i <= 2000; ++i) a.push_back(0.04F * static_cast<float>(i));
  const Results got = on_gpu({a.size(), 0, kFloat32, kFloat32, false}, a, a, a);
  for (size_t i = 0; i < a.size(); ++i) {
    const double expected = a[i] / (1 + std::exp(-static_cast<double>(a[i])));
    ASSERT_NEAR(got.h[i], expected, 1e-6 * std::abs(expected) + 1e-37) << "a " << a[i];
  }
}

TEST(GatedSiluCuda, ExtremesAreFiniteAndNotANumberIsNotLost) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const std::vector<float> a = {-1e30F, -200, 0, 200, 1e30F, std::numeric_limits<float>::quiet_NaN()}, dh(6, 1);
  const Results r = on_gpu({6, 0, kFloat32, kFloat32, false}, a, a, dh);
  const std::vector<float> h = {0, 0, 0, 200, 1e30F}, da = {0, 0, 0.5F, 1, 1};
  EXPECT_EQ(std::vector<float>(r.h.begin(), r.h.begin() + 5), h);
  EXPECT_EQ(std::vector<float>(r.da.begin(), r.da.begin() + 5), da);
  EXPECT_TRUE(std::isnan(r.h[5]));
  EXPECT_TRUE(std::isnan(r.da[5]));
}

}  // namespace
}  // namespace megalodon::ops
