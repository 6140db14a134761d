// What tells copies of a document apart from others: a hash that is the same for a document in one piece and for one
// that comes piece by piece, whatever the format that it is read from.
#pragma once

#include <cstddef>
#include <string_view>

#include "base/hash.h"

namespace megalodon::data {

/// Documents that do not come whole are cut every so many bytes.
inline constexpr size_t kPieceBytes = size_t{1} << 20;

/// The hash of what came before and then a piece.
Hash128 chain(const Hash128& before, const Hash128& piece);

/// Of a whole document: XXH3 of its first kPieceBytes, chained with that of every piece behind them.
Hash128 document_hash(std::string_view text);

}  // namespace megalodon::data
