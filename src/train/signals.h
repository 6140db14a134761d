// SIGINT, SIGTERM and SIGUSR1 as a flag that a long loop polls, so that it ends between two steps, with everything
// saved.
#pragma once

#include <csignal>
#include <thread>

#include "base/check.h"

namespace megalodon {

/// Catches the signals while it lives; one at a time. A second SIGINT ends the process at once, with exit code 130.
///
/// The handler runs on a thread of its own, in no one's way: oneDNN's generated kernels (2.6) use their workspace as
/// the stack, and a signal handled inside one of them would write its frame into whatever lies below that on the heap.
/// So the thread that makes the guard, and all that it starts later, have the signals blocked. raise() sends to such a
/// thread and would wait for ever; kill(getpid(), ...) is handled.
class SignalGuard {
 public:
  SignalGuard();
  ~SignalGuard();  // on the thread that made it
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

  /// The first signal caught, or 0; others come before SIGINT.
  static int received();
  static bool stopping() { return received() != 0; }
  /// Since that signal; 0 where there was none.
  static double seconds_since();
  /// As if no SIGINT had been caught yet, for a program that goes on after one. What else was caught stays.
  static void forget_interrupt();

 private:
  static void forget();

  struct sigaction previous_[3];
  sigset_t previous_mask_;
  std::jthread handling_;
};

class Interrupted final : public Error {
 public:
  Interrupted() : Error("interrupted") {}
};

/// Throws Interrupted after a signal: for work that ends then like at an error, with nothing half-written left behind.
inline void throw_if_stopping() {
  if (SignalGuard::stopping()) throw Interrupted();
}

}  // namespace megalodon
