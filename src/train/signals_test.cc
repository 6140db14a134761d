#include "train/signals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "train/testing.h"

namespace megalodon {
namespace {

constexpr std::array kCaught = {SIGINT, SIGTERM, SIGUSR1};

/// How many of the signals the calling thread leaves to others.
int blocked() {
  sigset_t set;
  pthread_sigmask(SIG_BLOCK, nullptr, &set);
  return static_cast<int>(std::count_if(kCaught.begin(), kCaught.end(), [&](int s) { return sigismember(&set, s); }));
}

int blocked_in_a_new_thread() {
  int count = -1;
  std::jthread([&] { count = blocked(); }).join();
  return count;
}

/// Returns when it has been handled, which received() does not tell at once where there was one before.
void terminate_behind_another() {
  testing::signal_process(SIGTERM);
  while (SignalGuard::received() != SIGTERM) std::this_thread::yield();
}

TEST(SignalGuard, NoThreadThatComputesHandlesASignal) {
  ASSERT_EQ(blocked(), 0);
  {
    const SignalGuard guard;
    EXPECT_EQ(blocked(), 3);
    EXPECT_EQ(blocked_in_a_new_thread(), 3);
    testing::signal_process(SIGINT);
    terminate_behind_another();
    testing::signal_process(SIGUSR1);
    EXPECT_EQ(SignalGuard::received(), SIGTERM) << "the first one counts that is no SIGINT";
    EXPECT_GT(SignalGuard::seconds_since(), 0);
  }
  EXPECT_EQ(blocked(), 0);
  EXPECT_EQ(blocked_in_a_new_thread(), 0);
  EXPECT_FALSE(SignalGuard::stopping());
}

TEST(SignalGuard, GoesOnAfterOneThatIsForgotten) {
  const SignalGuard guard;
  for (int i = 0; i < 3; ++i) {  // of which a second would end the process
    testing::signal_process(SIGINT);
    EXPECT_EQ(SignalGuard::received(), SIGINT);
    SignalGuard::forget_interrupt();
    EXPECT_FALSE(SignalGuard::stopping());
    EXPECT_EQ(SignalGuard::seconds_since(), 0);
  }
  testing::signal_process(SIGINT);
  terminate_behind_another();
  SignalGuard::forget_interrupt();
  EXPECT_EQ(SignalGuard::received(), SIGTERM) << "which no program goes on after";
}

TEST(SignalGuard, EveryOneCatchesAnew) {
  for (const int signal : kCaught) {
    const SignalGuard guard;
    EXPECT_FALSE(SignalGuard::stopping());
    testing::signal_process(signal);
    EXPECT_EQ(SignalGuard::received(), signal);
  }
}

}  // namespace
}  // namespace megalodon
