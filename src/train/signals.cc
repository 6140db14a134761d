#include "train/signals.h"

#include <time.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace megalodon {
namespace {

constexpr std::array kCaught = {SIGINT, SIGTERM, SIGUSR1};
constexpr int kInterruptedCode = 128 + SIGINT;

// Any thread may run the handler, and lock-free atomics are what it may touch.
std::atomic<int> first_signal = 0, interrupts = 0;
std::atomic<int64_t> signalled_at = 0;  // nanoseconds; 0: never
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<int64_t>::is_always_lock_free);

int64_t nanoseconds() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);  // which a handler may call
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

extern "C" void note_signal(int signal) {
  if (signal == SIGINT && ++interrupts == 2) _exit(kInterruptedCode);
  int before = 0;
  if (first_signal.compare_exchange_strong(before, signal)) signalled_at = nanoseconds();
  // A program may go on after SIGINT, but not after the others.
  if (before == SIGINT && signal != SIGINT) first_signal = signal;
}

sigset_t caught() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : kCaught) sigaddset(&set, signal);
  return set;
}

/// Until it is asked to stop, the one thread that takes the signals.
void handle_signals(const std::stop_token& stop) {
  const sigset_t set = caught();
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any().wait(lock, stop, [] { return false; });
}

}  // namespace

SignalGuard::SignalGuard() {
  static_assert(std::size(kCaught) == std::extent_v<decltype(previous_)>);
  forget();
  struct sigaction action = {};
  action.sa_handler = note_signal;
  action.sa_flags = SA_RESTART;  // reads and writes under way are none of the signal's business
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < kCaught.size(); ++i) sigaction(kCaught[i], &action, &previous_[i]);
  const sigset_t set = caught();
  pthread_sigmask(SIG_BLOCK, &set, &previous_mask_);
  handling_ = std::jthread(handle_signals);
}

SignalGuard::~SignalGuard() {
  handling_ = std::jthread();
  for (size_t i = 0; i < kCaught.size(); ++i) sigaction(kCaught[i], &previous_[i], nullptr);
  pthread_sigmask(SIG_SETMASK, &previous_mask_, nullptr);
  forget();
}

int SignalGuard::received() {
  return first_signal;
}

void SignalGuard::forget_interrupt() {
  int interrupt = SIGINT;
  if (!first_signal.compare_exchange_strong(interrupt, 0)) return;
  interrupts = 0;
  signalled_at = 0;
}

void SignalGuard::forget() {
  first_signal = interrupts = 0;
  signalled_at = 0;
}

double SignalGuard::seconds_since() {
  const int64_t at = signalled_at;
  return at == 0 ? 0 : 1e-9 * static_cast<double>(nanoseconds() - at);
}

}  // namespace megalodon
