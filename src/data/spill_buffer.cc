#include "data/spill_buffer.h"

#include <algorithm>
#include <atomic>

namespace megalodon::data {

void SpillBuffer::append(std::string_view bytes) {
  static std::atomic<int> files = 0;
  if (file_ == nullptr && memory_.size() + bytes.size() > most_)
    file_ = std::make_unique<AtomicFile>(fs::path(name_) += std::to_string(files++));
  if (file_ != nullptr) {
    file_->write(bytes);
  } else {
    memory_ += bytes;
  }
}

void SpillBuffer::read(uint64_t begin, uint64_t end, const std::function<void(std::string_view)>& take) const {
  constexpr uint64_t kPiece = uint64_t{1} << 20;
  const uint64_t in_memory = std::min<uint64_t>(end, memory_.size());
  if (begin < in_memory) take(std::string_view(memory_).substr(begin, in_memory - begin));
  std::string piece;
  for (begin = std::max<uint64_t>(begin, memory_.size()); begin < end; begin += piece.size()) {
    piece.resize(std::min(kPiece, end - begin));
    file_->read_at(begin - memory_.size(), piece.data(), piece.size());
    take(piece);
  }
}

}  // namespace megalodon::data
