// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), as event files and iSCSI use it; zlib's is another polynomial.
#pragma once

#include <cstdint>
#include <string_view>

namespace megalodon {

uint32_t crc32c(std::string_view bytes);

}  // namespace megalodon
