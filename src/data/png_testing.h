#pragma once

#include <gtest/gtest.h>
#include <png.h>

#include <cstdint>
#include <string>

namespace megalodon::data {

inline std::string png_of(uint32_t width, uint32_t height, const std::string& pixels,
                          uint32_t format = PNG_FORMAT_GRAY) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = width, image.height = height, image.format = format;
  std::string file(4096, '\0');
  png_alloc_size_t size = file.size();
  EXPECT_NE(png_image_write_to_memory(&image, file.data(), &size, 0, pixels.data(), 0, nullptr), 0) << image.message;
  file.resize(size);
  return file;
}

}  // namespace megalodon::data
