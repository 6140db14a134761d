#pragma once

#include <string>
#include <vector>

#include "data/testing.h"
#include "io/bytes.h"

namespace megalodon::data {

/// A WAV file of 16-bit PCM and one channel: 44 bytes of header, then the samples.
inline std::string wav_of(const std::vector<int16_t>& samples, uint32_t rate = 16000) {
  std::string file = "RIFF";
  const auto bytes = static_cast<uint32_t>(samples.size() * sizeof(int16_t));
  io::append(file, 36 + bytes);
  file += "WAVEfmt ";
  io::append(file, uint32_t{16});
  io::append(file, uint16_t{1});
  io::append(file, uint16_t{1});
  io::append(file, rate);
  io::append(file, 2 * rate);
  io::append(file, uint16_t{2});
  io::append(file, uint16_t{16});
  file += "data";
  io::append(file, bytes);
  for (const int16_t sample : samples) io::append(file, sample);
  return file;
}

}  // namespace megalodon::data
