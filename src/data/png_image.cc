#include "data/png_image.h"

#include <png.h>

#include <memory>

#include "base/check.h"

namespace megalodon::data {

GrayImage parse_gray_png(std::span<const std::byte> file, std::string_view name) {
  constexpr png_uint_32 kMostPixels = 4096;  // a side
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const std::unique_ptr<png_image, void (*)(png_image*)> guard(&image, &png_image_free);
  check(png_image_begin_read_from_memory(&image, file.data(), file.size()) != 0, "[png] {}: {}", name, image.message);
  check(image.width <= kMostPixels && image.height <= kMostPixels,
        "[png] {}: expected at most {} pixels a side, got {} x {}", name, kMostPixels, image.width, image.height);
  check(image.format == PNG_FORMAT_GRAY,
        "[png] {}: expected gray pixels of 8 bits, got colours, more bits or transparency", name);
  GrayImage gray{image.width, image.height, std::string(PNG_IMAGE_SIZE(image), '\0')};
  check(png_image_finish_read(&image, nullptr, gray.pixels.data(), 0, nullptr) != 0, "[png] {}: {}", name,
        image.message);
  return gray;
}

}  // namespace megalodon::data
