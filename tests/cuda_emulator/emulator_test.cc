// What the emulator has to find, and what it has to get right for kernels to be tested on it.
#include <stdlib.h>

#include <array>
#include <string>

#include "ops/cuda_kernel.cuh"
#include "ops/cuda_testing.h"

namespace megalodon::ops::cuda_emulator_test {
namespace {

using testing::DeviceArray;
using testing::TestQueue;

/// Launches in this order while it lives.
class InOrder {
 public:
  explicit InOrder(const char* order) {
    if (const char* before = getenv(kName)) before_ = before, was_set_ = true;
    setenv(kName, order, 1);
  }
  ~InOrder() { was_set_ ? setenv(kName, before_.c_str(), 1) : unsetenv(kName); }
  InOrder(const InOrder&) = delete;
  InOrder& operator=(const InOrder&) = delete;

 private:
  static constexpr const char* kName = "MEGALODON_CUDA_EMULATOR_ORDER";
  std::string before_;
  bool was_set_ = false;
};
constexpr const char* kOrders[] = {"forward", "backward", "7"};

/// What launch() throws; empty: nothing.
template <class Kernel, class... Args>
std::string error_of(const cuda::LaunchShape& shape, Kernel* kernel, const Args&... args) {
  TestQueue queue;
  try {
    cuda::launch("op", queue, shape, kernel, args...);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

template <class Kernel, class... Args>
std::vector<int> result_of(const cuda::LaunchShape& shape, size_t size, Kernel* kernel, const Args&... args) {
  DeviceArray<int> out(size);
  EXPECT_EQ(error_of(shape, kernel, out.data(), args...), "");
  return out.values();
}

// ---- barriers -------------------------------------------------------------------------------------------------------

__global__ void all_but_thread_7_meet() {
  if (threadIdx.x != 7) __syncthreads();
}

__global__ void two_kinds_of_barrier() {
  if (threadIdx.x % 2 == 0)
    __syncwarp();
  else
    __syncthreads();
}

TEST(CudaEmulator, ABarrierThatNotAllReachIsAnError) {
  const InOrder order("forward");
  EXPECT_EQ(
      error_of({2, 64}, all_but_thread_7_meet),
      "[op] CUDA failed: block (0, 0, 0), thread (0, 0, 0) waits in __syncthreads for thread (7, 0, 0), which has "
      "ended");
  EXPECT_EQ(error_of({1, dim3(8, 8)}, two_kinds_of_barrier),
            "[op] CUDA failed: block (0, 0, 0), thread (0, 0, 0) waits in __syncwarp for thread (1, 0, 0), which is in "
            "__syncthreads");
}

/// Each thread hands its number to the one before it.
template <bool kMeets>
__global__ void hand_on(int* out) {
  __shared__ int numbers[64];
  const unsigned i = threadIdx.x;
  numbers[i] = 0;
  __syncthreads();
  numbers[i] = static_cast<int>(i) + 1;
  if (kMeets) __syncthreads();
  out[i] = numbers[(i + 1) % 64];
}

TEST(CudaEmulator, AMissingBarrierShowsInSomeOrder) {
  std::vector<std::vector<int>> right, wrong;
  for (const char* name : kOrders) {
    const InOrder order(name);
    right.push_back(result_of({1, 64}, 64, hand_on<true>));
    wrong.push_back(result_of({1, 64}, 64, hand_on<false>));
  }
  for (int i = 0; i < 64; ++i) EXPECT_EQ(right[0][static_cast<size_t>(i)], (i + 1) % 64 + 1);
  EXPECT_EQ(right[1], right[0]);
  EXPECT_EQ(right[2], right[0]);
  EXPECT_NE(wrong[1], wrong[0]);
  EXPECT_NE(wrong[2], wrong[0]);
  EXPECT_NE(wrong[2], wrong[1]);
}

__global__ void hand_on_in_warp(int* out) {
  __shared__ int numbers[32];
  numbers[threadIdx.x] = 0;
  __syncwarp();
  numbers[threadIdx.x] = 1;
  out[threadIdx.x] = numbers[31 - threadIdx.x];
}

TEST(CudaEmulator, WarpsAreNotInLockstep) {
  const InOrder order("forward");
  const std::vector<int> got = result_of({1, 32}, 32, hand_on_in_warp);
  EXPECT_EQ(std::count(got.begin(), got.end(), 0), 16);
}

// ---- warps ----------------------------------------------------------------------------------------------------------

/// Eight results a lane.
__global__ void shuffle(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32, mine = 100 + lane;
  int* to = out + 8 * threadIdx.x;
  to[0] = __shfl_sync(~0u, mine, 5);
  to[1] = __shfl_up_sync(~0u, mine, 3);
  to[2] = __shfl_down_sync(~0u, mine, 3);
  to[3] = __shfl_xor_sync(~0u, mine, 6);
  to[4] = __shfl_sync(~0u, mine, 10, 8);
  to[5] = __shfl_up_sync(~0u, mine, 3, 8);
  to[6] = static_cast<int>(__ballot_sync(~0u, lane % 3 == 0));
  const bool low = lane < 16;  // two halves apart
  to[7] = low ? __shfl_xor_sync(0xffffu, mine, 1) : static_cast<int>(__shfl_xor_sync(0xffff0000u, double(mine), 2));
}

TEST(CudaEmulator, LanesExchangeWhatCudaSays) {
  int multiples_of_3 = 0;
  for (int lane = 0; lane < 32; lane += 3) multiples_of_3 |= static_cast<int>(1u << lane);
  for (const char* name : kOrders) {
    SCOPED_TRACE(name);
    const InOrder order(name);
    const std::vector<int> got = result_of({1, 96}, 96 * 8, shuffle);
    for (int i = 0; i < 96; ++i) {
      const int lane = i % 32, segment = lane / 8 * 8;
      const std::array<int, 8> expected = {105,
                                           100 + (lane < 3 ? lane : lane - 3),
                                           100 + (lane + 3 < 32 ? lane + 3 : lane),
                                           100 + (lane ^ 6),
                                           100 + segment + 2,
                                           100 + (lane - segment < 3 ? lane : lane - 3),
                                           multiples_of_3,
                                           100 + (lane < 16 ? lane ^ 1 : lane ^ 2)};
      for (size_t k = 0; k < 8; ++k) ASSERT_EQ(got[static_cast<size_t>(8 * i) + k], expected[k]) << i << ", " << k;
    }
  }
}

__global__ void lane_3_leaves() {
  if (threadIdx.x != 3) __shfl_xor_sync(~0u, 1.0f, 1);
}
__global__ void masks_differ() {
  __syncwarp(threadIdx.x < 16 ? 0xffffffffu : 0xffff0000u);
}
__global__ void reads_from_outside() {
  if (threadIdx.x < 16) __shfl_xor_sync(0xffffu, 1, 16);
}
__global__ void half_a_warp() {
  __ballot_sync(~0u, true);
}

TEST(CudaEmulator, AMeetingOfLanesThatDoNotAgreeIsAnError) {
  const InOrder order("forward");
  const std::string begin = "[op] CUDA failed: block (0, 0, 0), thread (0, 0, 0) ";
  EXPECT_EQ(error_of({1, 32}, lane_3_leaves), begin + "waits in __shfl_xor_sync for thread (3, 0, 0), which has ended");
  EXPECT_EQ(error_of({1, 32}, reads_from_outside),
            begin + "reads from lane 16 in __shfl_xor_sync, whose mask lacks it");
  EXPECT_EQ(error_of({1, 16}, half_a_warp), begin + "is in __ballot_sync with a mask of lanes that the block lacks");
  EXPECT_NE(error_of({1, 32}, masks_differ).find("__syncwarp"), std::string::npos);
}

// ---- blocks ---------------------------------------------------------------------------------------------------------

/// Blocks numbered by a counter, or by blockIdx, wait for the one before.
template <bool kCounts>
__global__ void wait_for_the_block_before(unsigned* next, unsigned* ready) {
  __shared__ unsigned number;
  if (threadIdx.x == 0) number = kCounts ? atomicAdd(next, 1u) : blockIdx.x;
  __syncthreads();
  if (number > 0 && threadIdx.x == 1)
    while (*const_cast<volatile unsigned*>(ready + number - 1) == 0) __nanosleep(32);
  __syncthreads();
  if (threadIdx.x == 0) ready[number] = 1;
}

TEST(CudaEmulator, WaitingForALaterBlockIsAnError) {
  for (const char* name : kOrders) {
    const InOrder order(name);
    DeviceArray<unsigned> next(std::vector<unsigned>(1)), ready(std::vector<unsigned>(40));
    EXPECT_EQ(error_of({40, 32}, wait_for_the_block_before<true>, next.data(), ready.data()), "");
    EXPECT_EQ(ready.values(), std::vector<unsigned>(40, 1));
  }
  const InOrder order("backward");
  DeviceArray<unsigned> next(1), ready(std::vector<unsigned>(40));
  EXPECT_EQ(
      error_of({40, 32}, wait_for_the_block_before<false>, next.data(), ready.data()),
      "[op] CUDA failed: block (39, 0, 0), thread (1, 0, 0) sleeps in __nanosleep for what no thread of its block "
      "does; it may wait for blocks that began before its own, and for no other");
}

__global__ void reads_dynamic_memory(int* out) {
  auto* memory = cuda::dynamic_shared<float>();
  if (isnan(memory[threadIdx.x])) out[blockIdx.x * 4 + threadIdx.x] = 1;
  memory[threadIdx.x] = 0;
}

TEST(CudaEmulator, DynamicSharedMemoryHoldsNothing) {
  EXPECT_EQ(result_of({3, 4, 16}, 12, reads_dynamic_memory), std::vector<int>(12, 1));
}

// ---- limits ---------------------------------------------------------------------------------------------------------

__global__ void nothing() {}

TEST(CudaEmulator, LaunchesThatAGpuRefusesAreRefused) {
  const auto refused = [](const cuda::LaunchShape& shape) {
    return error_of(shape, nothing).find("the most are") != std::string::npos;
  };
  EXPECT_FALSE(refused({dim3(1, 65535, 1), 1}));
  EXPECT_TRUE(refused({dim3(1, 65536, 1), 1}));
  EXPECT_TRUE(refused({dim3(1, 1, 65536), 1}));
  EXPECT_TRUE(refused({0, 32}));
  EXPECT_FALSE(refused({1, dim3(32, 32)}));
  EXPECT_TRUE(refused({1, dim3(32, 33)}));
  EXPECT_TRUE(refused({1, 0}));
  EXPECT_FALSE(refused({1, 1, 48 << 10}));
  EXPECT_TRUE(refused({1, 1, (48 << 10) + 1}));
  ASSERT_EQ(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 227 << 10), cudaSuccess);
  EXPECT_FALSE(refused({1, 1, 227 << 10}));
  EXPECT_EQ(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10),
            cudaErrorInvalidValue);
}

TEST(CudaEmulator, MemoryHasEnds) {
  float* memory = nullptr;
  float host[5] = {};
  ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&memory), 16), cudaSuccess);
  EXPECT_TRUE(isnan(memory[3]));
  EXPECT_EQ(cudaMemcpy(memory, host, 16, cudaMemcpyHostToDevice), cudaSuccess);
  EXPECT_EQ(cudaMemcpy(memory, host, 20, cudaMemcpyHostToDevice), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpy(host, host, 16, cudaMemcpyDeviceToHost), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemset(memory + 1, 0, 16), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(memory + 1), cudaErrorInvalidValue);
  EXPECT_EQ(cudaFree(memory), cudaSuccess);
  EXPECT_EQ(cudaFree(memory), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace megalodon::ops::cuda_emulator_test
