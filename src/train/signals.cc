#include "train/signals.h"

#include <unistd.h>

#include <array>
#include <atomic>

namespace megalodon {
namespace {

constexpr std::array kCaught = {SIGINT, SIGTERM, SIGUSR1};
constexpr int kInterruptedCode = 128 + SIGINT;

// Any thread may run the handler, and lock-free atomics are what it may touch.
std::atomic<int> first_signal = 0, interrupts = 0;
static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void note_signal(int signal) {
  if (signal == SIGINT && ++interrupts == 2) _exit(kInterruptedCode);
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
}

}  // namespace

SignalGuard::SignalGuard() {
  static_assert(std::size(kCaught) == std::extent_v<decltype(previous_)>);
  first_signal = interrupts = 0;
  struct sigaction action = {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;  // reads and writes under way are none of the signal's business
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kCaught.size(); ++i) sigaction(kCaught[i], &action, &previous_[i]);
}

SignalGuard::~SignalGuard() {
  for (size_t i = 0; i < kCaught.size(); ++i) sigaction(kCaught[i], &previous_[i], nullptr);
}

int SignalGuard::received() {
  return first_signal;
}

}  // namespace megalodon
