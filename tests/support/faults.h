// System calls on files that fail when a test wants it. Linking this defines open, write, fsync, rename, … in the test
// program itself; they take the place of libc's for the program and the shared libraries in it (the C++ library's file
// system functions, too), and pass on to libc unless a Faults object lives.
#pragma once

#include <cstdint>
#include <string>

namespace megalodon::faults {

inline constexpr int kShortWrite = -1;

struct Fault {
  int64_t at = -1;  // the call that fails, counted from 0; -1: none
  int error = 0;    // errno; kShortWrite: write() and pwrite() take half of the bytes, which is no failure
  /// As on a full disk: from that call on, whatever would write or create fails, and only that.
  bool lasting = false;
  /// "": any call; otherwise only those on open files whose path contains this count and fail.
  const char* file = "";
};

/// Lets fsync() do nothing while it lives, without counting: for tests that save a lot and care for no loss of power.
class NoSync {
 public:
  NoSync();
  ~NoSync();
  NoSync(const NoSync&) = delete;
  NoSync& operator=(const NoSync&) = delete;
};

/// Counts the calls of all threads, and lets one fail, from construction to destruction. One at a time.
class Faults {
 public:
  explicit Faults(Fault fault = {});
  ~Faults();
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;

  int64_t calls() const;
  /// The name of the call that failed first: "write"; "" if none did.
  std::string failed() const;

 private:
  NoSync fast_;
};

}  // namespace megalodon::faults
