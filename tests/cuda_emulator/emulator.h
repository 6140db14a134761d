// Runs CUDA kernels on the CPU as a GPU might, so that mistakes show.
//
// The threads of a block are fibers: each runs until it has to wait for others. The blocks of a grid run one after the
// other. MEGALODON_CUDA_EMULATOR_ORDER says who is next where several could be: "forward" (the default), the first
// thread and the first block; "backward", the last ones; or a number, the seed of a random choice. What depends on a
// barrier that is missing then comes out differently. Warps are not in lockstep either.
//
// An error, with block and thread and instead of waiting for ever, are
//   - a barrier, vote or shuffle for which not all threads come, with the same mask and for the same purpose;
//   - a shuffle from a lane that takes no part;
//   - a thread that sleeps for what no thread of its block will do: blocks run one after the other;
//   - a launch that a GPU would refuse, for its grid, its block or its dynamic shared memory.
// New memory, and dynamic shared memory in each block, is full of NaN. With the preset asan the sanitizers see what is
// read or written outside, and vectors that are not aligned. Not seen are: reads of static shared memory that nothing
// was written to, its size, __launch_bounds__, memory of the host where the device's should be, fences that are missing
// between blocks, and races that no order above shows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

struct dim3;
struct uint3;
enum cudaError_t : int;

namespace cuda_emulator {

/// What a thread waits in.
enum class Wait : uint8_t {
  kNothing,
  kThreads,
  kWarp,
  kBallot,
  kShuffle,
  kShuffleUp,
  kShuffleDown,
  kShuffleXor,
  kSleep
};

/// Runs `thread` once for each thread of the grid. `kernel` is its address.
cudaError_t launch(const void* kernel, const dim3& grid, const dim3& block, size_t shared,
                   const std::function<void()>& thread);

/// Of the block that runs.
void* dynamic_shared();

/// The most dynamic shared memory that launches of a kernel may ask for; 48 KiB where nothing else was said.
cudaError_t set_shared_limit(const void* kernel, size_t bytes);

/// Remembers an error and what there is to say about it; returns `status`.
cudaError_t fail(cudaError_t status, const char* format, ...) __attribute__((format(printf, 2, 3)));

// Of the thread that runs:

/// Waits for all threads of the block.
void meet_threads();

/// Waits for the lanes of the warp that `mask` names. Returns the bits that lane `source` brings, of a ballot all
/// lanes whose bits are not 0.
uint64_t meet_lanes(Wait wait, unsigned mask, uint64_t bits, unsigned source);

unsigned lane();

/// Lets the others go first.
void sleep();

}  // namespace cuda_emulator
