#include "train/prefetch.h"

#include <chrono>

namespace megalodon {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);  // how soon a stop is noticed while the disk is slow

}  // namespace

void Prefetch::begin() {
  ahead_ = std::async(std::launch::async, read_);
}

std::optional<std::vector<data::Batch>> Prefetch::take(const std::function<bool()>& stop) {
  if (!ahead_.valid()) begin();
  while (ahead_.wait_for(kPoll) != std::future_status::ready)
    if (stop && stop()) return {};
  return ahead_.get();
}

void Prefetch::drop() {
  if (ahead_.valid()) ahead_.wait();
  ahead_ = {};
}

}  // namespace megalodon
