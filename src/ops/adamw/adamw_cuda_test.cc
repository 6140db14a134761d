#include <deque>
#include <optional>

#include "ops/adamw/adamw_kernel.h"
#include "ops/cuda_testing.h"

namespace megalodon::ops {
namespace {

using namespace testing;

/// One parameter on both sides. Its arrays begin `shift` elements behind an aligned address.
struct Parameter {
  Parameter(size_t count, uint32_t seed, size_t shift_by)
      : size(static_cast<int64_t>(count)),
        shift(shift_by),
        p(random_numbers(count + shift, seed)),
        g(random_numbers(count + shift, seed + 1)),
        m(random_numbers(count + shift, seed + 2, 0.1F)),
        v(random_numbers(count + shift, seed + 3, 0.1F)),
        shrink(1 - 1e-4F * static_cast<float>(seed % 7)) {
    for (float& x : v) x = x * x;
    p_device.emplace(p), g_device.emplace(g), m_device.emplace(m), v_device.emplace(v);
  }

  AdamWArrays on_cpu() {
    return {p.data() + shift, g.data() + shift, m.data() + shift, v.data() + shift, size, shrink};
  }
  AdamWArrays on_gpu() {
    return {p_device->data() + shift,
            g_device->data() + shift,
            m_device->data() + shift,
            v_device->data() + shift,
            size,
            shrink};
  }

  int64_t size;
  size_t shift;
  std::vector<float> p, g, m, v;
  float shrink;
  std::optional<DeviceArray<float>> p_device, g_device, m_device, v_device;
};

/// More than one launch carries, of all sizes around vectors and chunks.
std::deque<Parameter> make_parameters() {
  const size_t sizes[] = {1, 0, 3, 4, 1000, 16383, 16384, 16385, 100003};
  std::deque<Parameter> list;
  for (uint32_t i = 0; i < 150; ++i) list.emplace_back(sizes[i % 9], 10 * i, i % 5 == 4 ? 1 : 0);
  return list;
}

AdamWArgs settings(const std::vector<AdamWArrays>& list, int step) {
  const auto t = static_cast<float>(step);
  return {.list = list.data(),
          .count = static_cast<int64_t>(list.size()),
          .beta1 = 0.9F,
          .beta2 = 0.95F,
          .rest1 = 0.1F,
          .rest2 = 0.05F,
          .rate = 3e-3F / (1 - std::pow(0.9F, t)),
          .inverse_correction = 1 / (1 - std::pow(0.95F, t)),
          .eps = 1e-8F,
          .gradient_scale = 0.7F};
}

/// Relative to each element, and absolute by a few roundings of what it is the sum of: the GPU fuses multiplications
/// and additions, and where the terms all but cancel, the results of an array of few elements are all small.
void expect_near(const std::vector<float>& got, const std::vector<float>& expected, float absolute) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], expected[i], absolute + 3e-6F * std::abs(expected[i])) << "element " << i;
}

TEST(AdamWCuda, AgreesWithTheCpu) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  auto parameters = make_parameters();
  std::vector<AdamWArrays> cpu, gpu;
  for (Parameter& x : parameters) cpu.push_back(x.on_cpu()), gpu.push_back(x.on_gpu());
  TestQueue queue;
  for (int step = 1; step <= 2; ++step) {
    adamw_cpu(settings(cpu, step));
    adamw_cuda(settings(gpu, step), queue);
  }
  queue.wait();
  for (const Parameter& x : parameters) {
    SCOPED_TRACE(::testing::Message() << x.size << " elements behind " << x.shift);
    expect_near(x.p_device->values(), x.p, 2e-6F);
    expect_near(x.m_device->values(), x.m, 5e-8F);
    expect_near(x.v_device->values(), x.v, 1e-12F);
    EXPECT_EQ(x.g_device->values(), x.g);
  }
}

TEST(AdamWCuda, AnEmptyListIsNoUpdate) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  TestQueue queue;
  adamw_cuda(settings({}, 1), queue);
}

double sum_on_gpu(const std::vector<ConstArray>& list) {
  TestQueue queue;
  DeviceArray<double> sum(1);
  sum_of_squares_cuda({.list = list.data(), .count = static_cast<int64_t>(list.size()), .sum = sum.data()}, queue);
  queue.wait();
  return sum.values()[0];
}

TEST(SumOfSquaresCuda, IsExactToFloat64AndAlwaysTheSame) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  auto parameters = make_parameters();
  std::vector<ConstArray> cpu, gpu;
  for (Parameter& x : parameters) {
    cpu.push_back({x.on_cpu().gradient, x.size});
    gpu.push_back({x.on_gpu().gradient, x.size});
  }
  double expected = 0;
  sum_of_squares_cpu({.list = cpu.data(), .count = static_cast<int64_t>(cpu.size()), .sum = &expected});
  const double got = sum_on_gpu(gpu);
  EXPECT_NEAR(got, expected, 1e-13 * expected);
  EXPECT_EQ(sum_on_gpu(gpu), got);
  EXPECT_EQ(sum_on_gpu({}), 0);
}

TEST(SumOfSquaresCuda, LargeAndBadValuesShow) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const auto sum_of = [](const std::vector<float>& values) {
    DeviceArray<float> x(values);
    return sum_on_gpu({{x.data(), static_cast<int64_t>(values.size())}});
  };
  EXPECT_DOUBLE_EQ(sum_of(std::vector<float>(2, 1e30F)), 2 * std::pow(static_cast<double>(1e30F), 2));
  std::vector<float> bad(20000, 1);
  bad[17000] = NAN;
  EXPECT_TRUE(std::isnan(sum_of(bad)));
  bad[17000] = INFINITY;
  EXPECT_TRUE(std::isinf(sum_of(bad)));
}

}  // namespace
}  // namespace megalodon::ops
