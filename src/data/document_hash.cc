#include "data/document_hash.h"

namespace megalodon::data {

Hash128 chain(const Hash128& before, const Hash128& piece) {
  const uint64_t words[] = {before.low, before.high, piece.low, piece.high};
  return xxh3_128({reinterpret_cast<const char*>(words), sizeof words});
}

Hash128 document_hash(std::string_view text) {
  Hash128 hash = xxh3_128(text.substr(0, kPieceBytes));
  for (size_t at = kPieceBytes; at < text.size(); at += kPieceBytes)
    hash = chain(hash, xxh3_128(text.substr(at, kPieceBytes)));
  return hash;
}

}  // namespace megalodon::data
