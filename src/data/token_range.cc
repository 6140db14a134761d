#include "data/token_range.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "data/token_index.h"

namespace megalodon::data {

void TokenRange::add(std::span<const std::byte> stored, int dtype_code) {
  with_token_dtype(dtype_code, [&]<class T>(T) {
    T low = 0, high = std::numeric_limits<T>::min();
    const size_t count = stored.size() / sizeof(T);
    for (size_t i = 0; i < count; ++i) {
      T token;
      std::memcpy(&token, stored.data() + i * sizeof(T), sizeof(T));  // foreign files need not be aligned
      low = std::min(low, token);
      high = std::max(high, token);
    }
    if (count == 0) return;
    smallest = std::min<int64_t>(smallest, low);
    largest = std::max<int64_t>(largest, high);
  });
}

}  // namespace megalodon::data
