// What the fuzz targets share. A target hands its input to a reader, which may throw Error and nothing else; whatever
// it accepts must hold what the reader promises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>

#include "base/check.h"

namespace megalodon::fuzz {

inline std::span<const std::byte> bytes_of(const uint8_t* data, size_t size) {
  return std::as_bytes(std::span(data, size));
}

inline std::string_view text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

/// Runs a reader that may refuse its input. Returns whether it accepted.
template <class Read>
bool accepts(const Read& read) {
  try {
    read();
    return true;
  } catch (const Error&) {
    return false;
  }
}

/// A broken promise is a finding, as a crash is.
inline void require(bool holds) {
  if (!holds) std::abort();
}

/// Reads every byte, so that a sanitizer sees a view that leaves its memory.
inline void touch(std::span<const std::byte> bytes) {
  [[maybe_unused]] volatile unsigned sum = 0;
  for (const std::byte byte : bytes) sum = sum + std::to_integer<unsigned>(byte);
}

}  // namespace megalodon::fuzz
