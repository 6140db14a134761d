// Megatron .idx files. The first two bytes are the size of the .bin file; every token that an accepted index claims
// must lie in it, and the documents must cover the tokens.
#include "data/token_index.h"

#include <cstring>
#include <optional>

#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

void check_promises(const data::TokenIndex& index, size_t bin_bytes) {
  fuzz::require(index.sequence_begin.size() == index.sequence_offset.size() + 1 && index.width > 0);
  for (size_t i = 0; i < index.sequence_offset.size(); ++i) {
    const int64_t length = index.sequence_begin[i + 1] - index.sequence_begin[i];
    fuzz::require(length >= 0 && index.sequence_offset[i] >= 0);
    const auto begin = static_cast<size_t>(index.sequence_offset[i]);
    fuzz::require(begin <= bin_bytes && static_cast<size_t>(length) <= (bin_bytes - begin) / index.width);
  }
  fuzz::require(index.document_begin.front() == 0 && index.document_begin.back() == index.sequence_begin.back());
  for (size_t i = 1; i < index.document_begin.size(); ++i) {
    fuzz::require(index.document_begin[i - 1] <= index.document_begin[i]);
  }
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  uint16_t bin_bytes = 0;
  if (size < sizeof bin_bytes) return 0;
  std::memcpy(&bin_bytes, data, sizeof bin_bytes);
  const auto file = fuzz::bytes_of(data, size).subspan(sizeof bin_bytes);
  std::optional<data::TokenIndex> index;
  if (fuzz::accepts([&] { index = data::parse_token_index(file, bin_bytes, "fuzz"); })) {
    check_promises(*index, bin_bytes);
  }
  return 0;
}
