#include "infer/stop_text.h"

#include <algorithm>
#include <utility>

namespace megalodon {

std::string StopText::push(std::string_view bytes) {
  held_ += bytes;
  if (found_) return {};
  if (stop_.empty()) return std::exchange(held_, {});
  if (const size_t at = held_.find(stop_); at != std::string::npos) {
    found_ = true;
    std::string before = held_.substr(0, at);
    held_.erase(0, at + stop_.size());
    return before;
  }
  size_t kept = std::min(held_.size(), stop_.size() - 1);
  while (!held_.ends_with(std::string_view(stop_).substr(0, kept))) --kept;
  std::string sure = held_.substr(0, held_.size() - kept);
  held_.erase(0, sure.size());
  return sure;
}

std::string StopText::finish() {
  return found_ ? std::string() : std::exchange(held_, {});
}

}  // namespace megalodon
