#include "ops/cuda_testing.h"
#include "ops/dropout/dropout_kernel.h"

namespace megalodon::ops {
namespace {

using namespace testing;

constexpr uint64_t kKey = 0x9000000000000001;  // beyond int64

/// The CPU's, rounded where the GPU writes bfloat16.
std::vector<float> on_cpu(const std::vector<float>& x, double p, NumberType type) {
  std::vector<float> y(x.size());
  dropout_cpu({.type = NumberType::kFloat32,
               .x = x.data(),
               .y = y.data(),
               .size = static_cast<int64_t>(x.size()),
               .p = p,
               .key = kKey});
  if (type == NumberType::kBfloat16)
    for (float& value : y) value = round_to_bfloat16(value);
  return y;
}

/// Of arrays that begin `shift` elements behind an aligned address.
std::vector<float> on_gpu(const std::vector<float>& x, double p, NumberType type, size_t shift, bool in_place) {
  TestQueue queue;
  std::vector<float> behind(shift);
  behind.insert(behind.end(), x.begin(), x.end());
  DeviceArray<float> from(behind, type), apart(behind.size(), type);
  DeviceArray<float>& to = in_place ? from : apart;
  const size_t bytes = shift * (type == NumberType::kBfloat16 ? 2 : 4);
  dropout_cuda({.type = type,
                .x = static_cast<uint8_t*>(from.numbers()) + bytes,
                .y = static_cast<uint8_t*>(to.numbers()) + bytes,
                .size = static_cast<int64_t>(x.size()),
                .p = p,
                .key = kKey},
               queue);
  queue.wait();
  const std::vector<float> all = to.values();
  for (size_t i = 0; i < shift; ++i) EXPECT_TRUE(in_place ? all[i] == 0 : std::isnan(all[i])) << "before the array";
  return {all.begin() + static_cast<std::ptrdiff_t>(shift), all.end()};
}

// Training on a GPU and on the CPU draw the same masks, and the factors are rounded alike: equal, not just close.
TEST(DropoutCuda, IsTheCpusBitForBit) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const NumberType type : {NumberType::kFloat32, NumberType::kBfloat16})
    for (const size_t size : {0, 1, 3, 4, 31, 2047, 2048, 2049, 100003})
      for (const size_t shift : {0, 1})
        for (const bool in_place : {false, true}) {
          SCOPED_TRACE(::testing::Message() << size << " elements behind " << shift << ", bfloat16 "
                                            << (type == NumberType::kBfloat16) << ", in place " << in_place);
          const auto x = random_numbers(size, 4, 1, type);
          EXPECT_EQ(on_gpu(x, 0.3, type, shift, in_place), on_cpu(x, 0.3, type));
        }
}

TEST(DropoutCuda, DropsWithProbabilityP) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const std::vector<float> x(100000, 1);
  for (const double p : {0.05, 0.9}) {
    const auto y = on_gpu(x, p, NumberType::kFloat32, 0, false);
    const auto dropped = static_cast<double>(std::count(y.begin(), y.end(), 0.0F));
    EXPECT_NEAR(dropped / 1e5, p, 0.005);
  }
}

}  // namespace
}  // namespace megalodon::ops
