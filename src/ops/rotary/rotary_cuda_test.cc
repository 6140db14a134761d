// rotary on a GPU against the CPU kernel.
#include <string>

#include "ops/cuda_testing.h"
#include "ops/rotary/rotary_kernel.h"

namespace megalodon::ops::rotary_cuda_test {
namespace {

using testing::DeviceArray;

std::vector<float> frequencies_of(int64_t head_dim, double base) {
  std::vector<float> list(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < list.size(); ++i)
    list[i] = static_cast<float>(std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return list;
}

struct Case {
  int64_t tokens, heads, head_dim, first, period;
};

// One pair, heads of odd multiples of two, rows longer than a block, several tokens to a block, far positions.
const std::vector<Case> kCases = {{1, 1, 2, 0, 1},     {1, 3, 64, 2047, 1},      {7, 2, 6, 5, 7},
                                  {129, 3, 34, 0, 33}, {40, 1, 256, 999000, 40}, {33, 4, 64, 3000000000, 33},
                                  {3, 2, 1030, 10, 3}, {2, 1, 4096, 4095, 2},    {1000, 3, 64, 0, 256},
                                  {300, 1, 12, 0, 300}};

std::vector<int64_t> positions_of(const Case& c) {
  std::vector<int64_t> list(static_cast<size_t>(c.tokens));
  for (size_t t = 0; t < list.size(); ++t) list[t] = c.first + static_cast<int64_t>(t) % c.period;
  return list;
}

/// In float32 on the CPU, whatever the type on the device: x holds numbers that both can.
std::vector<float> on_cpu(const Case& c, const std::vector<float>& x, bool inverse) {
  const std::vector<int64_t> position = positions_of(c);
  const std::vector<float> frequencies = frequencies_of(c.head_dim, 10000);
  std::vector<float> y(x.size());
  rotary_cpu({NumberType::kFloat32, x.data(), position.data(), frequencies.data(), y.data(), c.tokens, c.heads,
              c.head_dim, inverse});
  return y;
}

TEST(RotaryCuda, MatchesTheCpu) {
  if (!testing::has_gpu()) GTEST_SKIP() << testing::kNoGpu;
  for (const Case& c : kCases) {
    for (const NumberType type : {NumberType::kFloat32, NumberType::kBfloat16}) {
      for (const bool inverse : {false, true}) {
        SCOPED_TRACE(std::to_string(c.tokens) + " tokens, " + std::to_string(c.heads) + " heads of " +
                     std::to_string(c.head_dim) + " from " + std::to_string(c.first) +
                     (type == NumberType::kBfloat16 ? " bfloat16" : "") + (inverse ? " inverse" : ""));
        const auto x =
            testing::random_numbers(static_cast<size_t>(c.tokens * c.heads * c.head_dim), 7, /*scale=*/1, type);
        DeviceArray<float> device_x(x, type), y(x.size(), type), frequencies(frequencies_of(c.head_dim, 10000));
        DeviceArray<int64_t> position(positions_of(c));
        RotaryArgs args{type,    device_x.numbers(), position.data(), frequencies.data(), y.numbers(), c.tokens,
                        c.heads, c.head_dim,         inverse};
        testing::TestQueue queue;
        rotary_cuda(args, queue);
        queue.wait();
        const auto expected = on_cpu(c, x, inverse);
        EXPECT_TRUE(testing::close(y.values(), expected, testing::tolerance(type, 1e-6)));
        args.y = device_x.numbers();  // in place
        rotary_cuda(args, queue);
        queue.wait();
        EXPECT_TRUE(testing::close(device_x.values(), y.values(), 0));
      }
    }
  }
}

TEST(RotaryCuda, UnalignedMemory) {
  if (!testing::has_gpu()) GTEST_SKIP() << testing::kNoGpu;
  const Case c{9, 2, 8, 3, 9};
  const auto x = testing::random_numbers(static_cast<size_t>(c.tokens * c.heads * c.head_dim), 8);
  std::vector<float> shifted(1, 0.0f);  // x begins at the second element
  shifted.insert(shifted.end(), x.begin(), x.end());
  DeviceArray<float> device_x(shifted), y(shifted.size()), frequencies(frequencies_of(c.head_dim, 10000));
  DeviceArray<int64_t> position(positions_of(c));
  testing::TestQueue queue;
  rotary_cuda({NumberType::kFloat32, device_x.data() + 1, position.data(), frequencies.data(), y.data() + 1, c.tokens,
               c.heads, c.head_dim, false},
              queue);
  queue.wait();
  std::vector<float> got = y.values();
  EXPECT_TRUE(std::isnan(got[0]));
  got.erase(got.begin());
  EXPECT_TRUE(testing::close(got, on_cpu(c, x, false), 1e-6));
}

}  // namespace
}  // namespace megalodon::ops::rotary_cuda_test
