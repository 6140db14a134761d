// The batches of one optimizer step after another, read ahead by a thread of their own, so that a step need not wait
// for the disk. Where it stands is one number, and reading ahead does not move it.
#pragma once

#include <vector>

#include "train/prefetch.h"

namespace megalodon {

/// Loader: next() returns a batch in plain arrays (libtorch would start threads of its own for every thread that
/// touches a tensor); position() counts what was handed out, and seek() goes there.
template <class Loader>
class StepReader {
 public:
  using Step = std::vector<decltype(std::declval<Loader&>().next())>;

  /// Steps of so many batches.
  StepReader(Loader loader, int64_t batches) : loader_(std::move(loader)), batches_(batches) {}

  /// The step at the current position, which moves on. None, with the position as it was, where `stop` says so before
  /// it is there.
  std::optional<Step> next(const std::function<bool()>& stop) {
    auto step = ahead_.take(stop);
    if (!step) return {};
    position_ = loader_.position();
    ahead_.begin();
    return step;
  }
  int64_t position() const { return position_; }
  void seek(int64_t position) {
    ahead_.drop();
    loader_.seek(position);
    position_ = position;
  }
  /// For what its position does not change.
  const Loader& loader() const { return loader_; }

 private:
  Step read() {
    Step step;
    for (int64_t i = 0; i < batches_; ++i) step.push_back(loader_.next());
    return step;
  }

  Loader loader_;  // the reading thread's own while it reads
  int64_t batches_, position_ = 0;
  Prefetch<Step> ahead_{[this] { return read(); }};  // last: it is waited for before what it reads from goes
};

}  // namespace megalodon
