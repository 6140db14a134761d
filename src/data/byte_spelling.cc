#include "data/byte_spelling.h"

#include <array>
#include <cstdint>

#include "base/utf8.h"

namespace megalodon::data {
namespace {

/// Code point -> byte, plus 1; 0 where there is none. Printable Latin-1 characters stand for themselves, the 68 other
/// bytes for U+0100 and on, in order.
std::array<uint16_t, 0x144> spelling_table() {
  std::array<uint16_t, 0x144> bytes{};
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte != 0xAD);
    bytes[printable ? byte : next++] = static_cast<uint16_t>(byte + 1);
  }
  return bytes;
}

}  // namespace

bool bytes_of_spelling(std::string_view spelling, std::string& bytes) {
  static const std::array<uint16_t, 0x144> kTable = spelling_table();
  bytes.clear();
  while (!spelling.empty()) {
    const Utf8Character character = first_character(spelling);
    if (!character.valid || character.code >= kTable.size() || kTable[character.code] == 0) return false;
    bytes += static_cast<char>(kTable[character.code] - 1);
    spelling.remove_prefix(character.length);
  }
  return true;
}

}  // namespace megalodon::data
