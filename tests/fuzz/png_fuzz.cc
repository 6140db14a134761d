// PNG images, whose chunks get right checksums first: without them next to nothing would reach the decoder. What is
// accepted has a byte a pixel.
#include <png.h>
#include <zlib.h>

#include <string>

#include "data/png_image.h"
#include "io/bytes.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

/// Chunks are the length of their data, a name of four letters, the data, and a checksum of both.
void mend_checksums(std::string& file) {
  const auto at = [&](size_t place) { return reinterpret_cast<unsigned char*>(file.data()) + place; };
  constexpr size_t kSignature = 8, kAround = 12;  // bytes of a chunk that are no data
  for (size_t chunk = kSignature; chunk + kAround <= file.size();) {
    const size_t data = png_get_uint_32(at(chunk));
    if (data > file.size() - chunk - kAround) return;
    const auto sum = static_cast<png_uint_32>(crc32_z(0, at(chunk + 4), 4 + data));
    png_save_uint_32(at(chunk + 8 + data), sum);
    chunk += kAround + data;
  }
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  std::string file(fuzz::text_of(data, size));
  mend_checksums(file);
  data::GrayImage image;
  if (fuzz::accepts([&] { image = data::parse_gray_png(io::as_bytes(file), "fuzz"); })) {
    fuzz::require(image.width > 0 && image.height > 0);
    fuzz::require(image.pixels.size() == static_cast<size_t>(image.width * image.height));
    fuzz::touch(io::as_bytes(image.pixels));
  }
  return 0;
}
