// WAV files: RIFF of 16-bit PCM. Everything else that such files can hold is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace megalodon::data {

struct Sound {
  uint32_t rate = 0;                        // samples a second
  std::span<const std::byte> samples = {};  // of the file: little-endian I16, at any address
};

/// The only channel of a file in memory. Throws Error naming it by `name`, with the byte and the rule.
Sound parse_wav(std::span<const std::byte> file, std::string_view name);

}  // namespace megalodon::data
