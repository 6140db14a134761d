// One reading after another, each done by a thread of its own while the one before is worked on.
#pragma once

#include <functional>
#include <future>
#include <optional>
#include <vector>

#include "data/loader.h"

namespace megalodon {

class Prefetch {
 public:
  /// `read` is never called twice at a time; what it touches is its own from begin() until take() or drop() returns.
  explicit Prefetch(std::function<std::vector<data::Batch>()> read) : read_(std::move(read)) {}
  ~Prefetch() { drop(); }
  Prefetch(const Prefetch&) = delete;
  Prefetch& operator=(const Prefetch&) = delete;

  void begin();
  /// What is being read, or begins to be; throws what the reading threw. None where `stop`, polled while it waits, says
  /// so first: the next call then waits for the same reading.
  std::optional<std::vector<data::Batch>> take(const std::function<bool()>& stop);
  /// Waits for the reading that is under way, if one is, and forgets it.
  void drop();

 private:
  std::function<std::vector<data::Batch>()> read_;
  std::future<std::vector<data::Batch>> ahead_;
};

}  // namespace megalodon
