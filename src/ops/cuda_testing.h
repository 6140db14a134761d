// What the tests of CUDA kernels share: device arrays, random numbers, the comparer. Kernels are compared with our CPU
// kernels, or with a plain loop in float64; no libtorch.
#pragma once

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <vector>

#include "ops/cuda_queue.h"
#include "ops/number.h"

namespace megalodon::ops::testing {

inline void expect_success(cudaError_t status) {
  ASSERT_EQ(status, cudaSuccess) << cudaGetErrorString(status);
}

/// True where there is a GPU to run on; none is a failure where MEGALODON_NEED_GPU is set. Tests say
/// `if (!has_gpu()) GTEST_SKIP() << kNoGpu;`.
inline bool has_gpu() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return true;
  EXPECT_EQ(std::getenv("MEGALODON_NEED_GPU"), nullptr) << "no GPU: " << cudaGetErrorString(status);
  return false;
}
inline constexpr const char* kNoGpu = "no GPU here";

/// Runs on a stream of its own; scratch memory is filled with NaN, so that a kernel that relies on zeros fails.
class TestQueue final : public CudaQueue {
 public:
  TestQueue() { expect_success(cudaStreamCreate(&stream_)); }
  ~TestQueue() override {
    wait();
    for (void* memory : scratch_) cudaFree(memory);
    cudaStreamDestroy(stream_);
  }
  CUstream_st* stream() const override { return stream_; }
  void* scratch(size_t bytes) override {
    void* memory = nullptr;
    expect_success(cudaMalloc(&memory, std::max<size_t>(bytes, 256)));
    expect_success(cudaMemsetAsync(memory, 0xff, bytes, stream_));
    scratch_.push_back(memory);
    return memory;
  }
  void wait() { expect_success(cudaStreamSynchronize(stream_)); }

 private:
  cudaStream_t stream_ = nullptr;
  std::vector<void*> scratch_;
};

inline float round_to_bfloat16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return std::bit_cast<float>((bits + 0x7fffu + ((bits >> 16) & 1u)) & 0xffff0000u);
}

/// Numbers as the host writes them, in device memory as `type`. A fresh one is full of NaN, and so is what lies behind
/// its end, which must stay untouched.
template <class T>
class DeviceArray {
 public:
  explicit DeviceArray(size_t size, NumberType type = NumberType::kFloat32) : size_(size), type_(type) {
    expect_success(cudaMalloc(&memory_, bytes() + kGuard));
    expect_success(cudaMemset(memory_, 0xff, bytes() + kGuard));
  }
  explicit DeviceArray(const std::vector<T>& values, NumberType type = NumberType::kFloat32)
      : DeviceArray(values.size(), type) {
    if (!narrow()) {
      expect_success(cudaMemcpy(memory_, values.data(), bytes(), cudaMemcpyHostToDevice));
      return;
    }
    std::vector<uint16_t> halves(size_);
    for (size_t i = 0; i < size_; ++i)
      halves[i] =
          static_cast<uint16_t>(std::bit_cast<uint32_t>(round_to_bfloat16(static_cast<float>(values[i]))) >> 16);
    expect_success(cudaMemcpy(memory_, halves.data(), bytes(), cudaMemcpyHostToDevice));
  }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  ~DeviceArray() { cudaFree(memory_); }

  /// What the device has written; waits for it. Fails the test where memory behind the end was touched.
  std::vector<T> values() const {
    expect_success(cudaDeviceSynchronize());
    std::vector<uint8_t> guard(kGuard);
    expect_success(cudaMemcpy(guard.data(), static_cast<uint8_t*>(memory_) + bytes(), kGuard, cudaMemcpyDeviceToHost));
    EXPECT_TRUE(std::all_of(guard.begin(), guard.end(), [](uint8_t byte) { return byte == 0xff; }))
        << "memory behind the end was written to";
    std::vector<T> list(size_);
    if (!narrow()) {
      // Not into vector<bool>, which has no data().
      expect_success(cudaMemcpy(list.data(), memory_, bytes(), cudaMemcpyDeviceToHost));
      return list;
    }
    std::vector<uint16_t> halves(size_);
    expect_success(cudaMemcpy(halves.data(), memory_, bytes(), cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < size_; ++i) list[i] = static_cast<T>(std::bit_cast<float>(uint32_t{halves[i]} << 16));
    return list;
  }

  T* data() { return static_cast<T*>(memory_); }
  void* numbers() { return memory_; }
  NumberType type() const { return type_; }

 private:
  static constexpr size_t kGuard = 64;
  bool narrow() const { return type_ == NumberType::kBfloat16; }
  size_t bytes() const { return size_ * (narrow() ? sizeof(uint16_t) : sizeof(T)); }

  size_t size_;
  NumberType type_;
  void* memory_ = nullptr;
};

/// N(0, 1) times `scale`, rounded to bfloat16 where the device will hold them so: both sides then begin with the same
/// numbers.
inline std::vector<float> random_numbers(size_t size, uint32_t seed, float scale = 1,
                                         NumberType type = NumberType::kFloat32) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> list(size);
  for (float& x : list) {
    x = scale * normal(generator);
    if (type == NumberType::kBfloat16) x = round_to_bfloat16(x);
  }
  return list;
}

/// |got − expected| <= tolerance · max|expected|, for every element; NaN fails.
template <class T, class U>
::testing::AssertionResult close(const std::vector<T>& got, const std::vector<U>& expected, double tolerance) {
  if (got.size() != expected.size())
    return ::testing::AssertionFailure() << got.size() << " elements, expected " << expected.size();
  double largest = 0, worst = -1;
  for (const U& x : expected) largest = std::max(largest, std::abs(static_cast<double>(x)));
  size_t at = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(static_cast<double>(got[i]) - static_cast<double>(expected[i]));
    if (difference <= worst) continue;
    worst = difference, at = i;  // NaN comes here too, and stays
    if (std::isnan(difference)) break;
  }
  if (got.empty() || worst <= tolerance * largest) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "element " << at << " of " << got.size() << ": got " << got[at]
                                       << ", expected " << expected[at] << ", allowed difference "
                                       << tolerance * largest;
}

/// Of a result in numbers of `type`, when everything else is float32.
inline double tolerance(NumberType type, double float32) {
  return type == NumberType::kBfloat16 ? 0x1p-8 : float32;
}

}  // namespace megalodon::ops::testing
