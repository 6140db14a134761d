// GPT-2's way to write any bytes as printable text.
#pragma once

#include <string>
#include <string_view>

namespace megalodon::data {

/// Byte-level tokens spell every byte as a printable character: the bytes of such a spelling. False where a character
/// stands for none.
bool bytes_of_spelling(std::string_view spelling, std::string& bytes);

}  // namespace megalodon::data
