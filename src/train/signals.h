// SIGINT, SIGTERM and SIGUSR1 as a flag that a long loop polls, so that it ends between two steps, with everything
// saved.
#pragma once

#include <csignal>

#include "base/check.h"

namespace megalodon {

/// Catches the signals while it lives; one at a time. A second SIGINT ends the process at once, with exit code 130.
class SignalGuard {
 public:
  SignalGuard();
  ~SignalGuard();
  SignalGuard(const SignalGuard&) = delete;
  SignalGuard& operator=(const SignalGuard&) = delete;

  /// The first signal caught, or 0.
  static int received();
  static bool stopping() { return received() != 0; }
  /// Since that signal; 0 where there was none.
  static double seconds_since();

 private:
  struct sigaction previous_[3];
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
