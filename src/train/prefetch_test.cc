#include "train/prefetch.h"

#include <gtest/gtest.h>

#include <csignal>
#include <stdexcept>

#include "train/testing.h"

namespace megalodon {
namespace {

/// A disk that gives nothing before it is told to.
class StuckDisk : public ::testing::Test {
 protected:
  ~StuckDisk() override { release(); }
  void release() {
    if (!std::exchange(released_, true)) gate_.set_value();
  }
  std::vector<data::Batch> read() {
    opened_.wait();
    return {data::Batch{.batch = ++readings_, .length = 1, .tokens = {}, .targets = {}, .starts = {}}};
  }

  bool released_ = false;
  std::promise<void> gate_;
  std::shared_future<void> opened_ = gate_.get_future().share();
  int64_t readings_ = 0;
  Prefetch<std::vector<data::Batch>> ahead_{[this] { return read(); }};
};

TEST_F(StuckDisk, ASignalEndsTheWaitAndLosesNothing) {
  const SignalGuard guard;
  int polls = 0;
  const auto batches = ahead_.take([&] {
    if (++polls == 2) testing::signal_process(SIGTERM);
    return SignalGuard::stopping();
  });
  EXPECT_FALSE(batches);
  EXPECT_EQ(polls, 2) << "noticed at once";
  EXPECT_FALSE(ahead_.take(SignalGuard::stopping)) << "the disk is still stuck";
  release();
  const auto later = ahead_.take({});
  ASSERT_TRUE(later);
  EXPECT_EQ(later->front().batch, 1) << "the reading that was waited for";
  EXPECT_EQ(ahead_.take({})->front().batch, 2);
}

TEST_F(StuckDisk, EndingWaitsForTheReadingUnderWay) {
  ahead_.begin();
  EXPECT_FALSE(ahead_.take([] { return true; }));
  release();
  ahead_.drop();
  EXPECT_EQ(readings_, 1);
}

TEST(Prefetch, ErrorsReachWhoeverWaits) {
  Prefetch<std::vector<data::Batch>> broken(
      []() -> std::vector<data::Batch> { throw std::runtime_error("unreadable"); });
  EXPECT_THROW(broken.take({}), std::runtime_error);
}

}  // namespace
}  // namespace megalodon
