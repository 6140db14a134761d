// One reading after another, each done by a thread of its own while the one before is worked on.
#pragma once

#include <chrono>
#include <functional>
#include <future>
#include <optional>
#include <utility>

namespace megalodon {

template <class Reading>
class Prefetch {
 public:
  /// `read` is never called twice at a time; what it touches is its own from begin() until take() or drop() returns.
  explicit Prefetch(std::function<Reading()> read) : read_(std::move(read)) {}
  ~Prefetch() { drop(); }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  void begin() { ahead_ = std::async(std::launch::async, read_); }
  /// What is being read, or begins to be; throws what the reading threw. None where `stop`, polled while it waits, says
  /// so first: the next call then waits for the same reading.
  std::optional<Reading> take(const std::function<bool()>& stop) {
    constexpr auto kPoll = std::chrono::milliseconds(50);  // how soon a stop is noticed while the disk is slow
    if (!ahead_.valid()) begin();
    while (ahead_.wait_for(kPoll) != std::future_status::ready)
      if (stop && stop()) return {};
    return ahead_.get();
  }
  /// Waits for the reading that is under way, if one is, and forgets it.
  void drop() {
    if (ahead_.valid()) ahead_.wait();
    ahead_ = {};
  }

 private:
  std::function<Reading()> read_;
  std::future<Reading> ahead_;
};

}  // namespace megalodon
