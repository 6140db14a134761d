// Numbers as people read them.
#pragma once

#include <cstdint>
#include <string>

namespace megalodon {

/// 1234567 -> "1,234,567"
std::string with_commas(int64_t number);
/// 1536 -> "1.5 KiB"
std::string human_bytes(double bytes);

}  // namespace megalodon
