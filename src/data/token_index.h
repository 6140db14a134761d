// The .idx half of token files (token_files.h has the format), read from memory. The reader treats the file as hostile:
// every number is checked before it is used, and time and memory are linear in the file's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "base/check.h"

namespace megalodon::data {

inline constexpr std::string_view kTokenIndexMagic("MMIDIDX\0\0", 9);
inline constexpr uint64_t kTokenIndexVersion = 1;

struct TokenDtype {
  int code;
  size_t width;  // bytes
  const char* name;
};

/// Null for a code that is no integer type of the format.
const TokenDtype* find_token_dtype(int code);

/// Calls body with a value of the dtype's C++ type.
template <class Body>
void with_token_dtype(int code, const Body& body) {
  switch (code) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(int8_t{});
    case 3:
      return body(int16_t{});
    case 4:
      return body(int32_t{});
    case 5:
      return body(int64_t{});
    case 8:
      return body(uint16_t{});
    default:
      fail("[token file] unknown dtype code {}", code);
  }
}

struct TokenIndex {
  int dtype_code = 0;
  size_t width = 0;                      // bytes per token
  std::vector<int64_t> sequence_begin;   // in the concatenation of all sequences, plus the end
  std::vector<int64_t> sequence_offset;  // in bytes of .bin
  std::vector<int64_t> document_begin;   // in the concatenation, plus the end
};

/// Throws Error naming the file by `name`, the byte and the rule. `bin_bytes` is the size of the .bin file.
TokenIndex parse_token_index(std::span<const std::byte> file, size_t bin_bytes, std::string_view name);

}  // namespace megalodon::data
