#include "data/wav.h"

#include "base/check.h"
#include "io/bytes.h"

namespace megalodon::data {
namespace {

constexpr uint16_t kPcm = 1, kExtensible = 0xFFFE;
constexpr size_t kSubFormatAt = 24;  // in the chunk "fmt " of the extensible kind

/// Of the chunk "fmt ": samples a second.
uint32_t parse_wav_format(std::span<const std::byte> chunk) {
  io::ByteReader reader(chunk);
  auto format = reader.read<uint16_t>();
  const auto channels = reader.read<uint16_t>();
  const auto rate = reader.read<uint32_t>();
  reader.take(6);  // bytes a second and of a frame follow from the rest
  const auto bits = reader.read<uint16_t>();
  if (format == kExtensible) format = io::ByteReader(chunk, kSubFormatAt).read<uint16_t>();
  check(format == kPcm && bits == 16 && channels == 1,
        "expected 16-bit PCM (format 1) of 1 channel, got format {} of {} bits and {} channels", format, bits,
        channels);
  check(rate > 0, "expected a rate above 0");
  return rate;
}

}  // namespace

Sound parse_wav(std::span<const std::byte> file, std::string_view name) {
  return io::with_context(fmt::format("[wav] {}", name), [&] {
    io::ByteReader reader(file);
    const bool riff = io::as_text(reader.take(4)) == "RIFF";
    reader.take(4);  // the file's size, which writers to pipes leave open
    check(riff && io::as_text(reader.take(4)) == "WAVE", "expected a WAV file, which begins with RIFF and WAVE");
    Sound sound;
    while (true) {
      check(reader.remaining() > 0, "the file ends before a chunk \"data\"");
      const std::string_view kind = io::as_text(reader.take(4));
      const auto size = reader.read<uint32_t>();
      const auto chunk = reader.take(size);
      if (kind == "fmt ") sound.rate = parse_wav_format(chunk);
      if (kind == "data") {
        check(sound.rate > 0, "a chunk \"fmt \" must come before \"data\"");
        check(size % 2 == 0, "16-bit samples take an even number of bytes, got {}", size);
        sound.samples = chunk;
        return sound;
      }
      if (size % 2 == 1) reader.take(1);
    }
  });
}

}  // namespace megalodon::data
