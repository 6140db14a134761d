// What a long-running command tells about itself.
#pragma once

#include <chrono>
#include <cstdint>

namespace megalodon {

/// Resident memory of this process in bytes (0 where /proc is missing).
int64_t resident_bytes();

/// The most that resident_bytes() has been since the program began, or since the last reset.
int64_t peak_resident_bytes();
/// Gives memory that nobody uses back to the system and lets peak_resident_bytes() begin anew (where /proc allows it).
void reset_peak_resident_bytes();

/// From now on freed memory, also of large blocks, stays with the process, to be used again without asking the system.
/// A training step frees and takes the same hundreds of megabytes over and over; with the C library's defaults every
/// block over 32 MiB at most goes back at once and is cleared anew, page by page, which took a third of a bfloat16
/// step.
void keep_freed_memory();

/// Ends the program with what it has to write to standard output and error written, but without the destructors of
/// global objects: libtorch's take a tenth of a second. Where that cannot be written, a code of 0 becomes 1.
[[noreturn]] void leave(int code);

/// Cores this process may run on.
int available_cores();

/// Seconds since construction or the last restart().
class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - begin_).count(); }
  void restart() { begin_ = Clock::now(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point begin_ = Clock::now();
};

}  // namespace megalodon
