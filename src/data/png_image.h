#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace megalodon::data {

struct GrayImage {
  int64_t width = 0, height = 0;
  std::string pixels;  // a byte each, row after row
};

/// A PNG file in memory, of gray with 8 bits or less and at most 4096 pixels a side. Throws Error naming it by `name`.
GrayImage parse_gray_png(std::span<const std::byte> file, std::string_view name);

}  // namespace megalodon::data
