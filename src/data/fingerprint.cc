#include "data/fingerprint.h"

#include <vector>

#include "base/hash.h"

namespace megalodon::data {

std::string data_fingerprint(uint64_t index_hash, std::span<const std::byte> bytes) {
  constexpr size_t kBlock = size_t{64} << 10, kBlocks = 1024;
  std::vector<uint64_t> hashes = {index_hash, bytes.size()};
  if (bytes.size() <= kBlock * kBlocks) {
    hashes.push_back(xxh3_64(bytes));
  } else {
    const size_t room = bytes.size() - kBlock;
    for (size_t i = 0; i < kBlocks; ++i) {
      const size_t begin = room / (kBlocks - 1) * i + room % (kBlocks - 1) * i / (kBlocks - 1);
      hashes.push_back(xxh3_64(bytes.subspan(begin, kBlock)));
    }
  }
  return hex64(xxh3_64(std::as_bytes(std::span(hashes))));
}

}  // namespace megalodon::data
