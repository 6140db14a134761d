#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace megalodon::data {

/// Tells data from any other, as 16 hexadecimal digits: a hash (XXH3) of its size, of `index_hash`, that of what says
/// how it is divided, and of all its bytes, of which, past 64 MiB, only 1024 blocks of 64 KiB at even distances count,
/// first and last included, so that a terabyte takes no longer than a gigabyte. A change that lies between the blocks
/// and keeps all sizes goes unnoticed.
std::string data_fingerprint(uint64_t index_hash, std::span<const std::byte> bytes);

}  // namespace megalodon::data
