// Bytes that may become too many for memory.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "base/file.h"

namespace megalodon::data {

/// Holds up to `most` bytes in memory and all beyond in a temporary file that goes with the buffer: an AtomicFile
/// called `name` and a number.
class SpillBuffer {
 public:
  SpillBuffer(fs::path name, size_t most) : name_(std::move(name)), most_(most) {}

  void append(std::string_view bytes);
  uint64_t size() const { return memory_.size() + (file_ == nullptr ? 0 : file_->size()); }
  bool empty() const { return size() == 0; }
  /// Calls take(piece) until [begin, end) is through.
  void read(uint64_t begin, uint64_t end, const std::function<void(std::string_view)>& take) const;

 private:
  fs::path name_;
  size_t most_;
  std::string memory_;
  std::unique_ptr<AtomicFile> file_;  // never published
};

}  // namespace megalodon::data
