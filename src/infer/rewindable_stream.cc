#include "infer/rewindable_stream.h"

#include <algorithm>

#include "base/check.h"

namespace megalodon {
namespace {

/// Without chunks the state is small everywhere.
int64_t steps_between(const Model& model) {
  constexpr int64_t kWithoutChunks = 2048;
  const int64_t chunk = model.info().chunk_size;
  return chunk > 0 ? chunk : kWithoutChunks;
}

}  // namespace

RewindableStream::RewindableStream(const Engine& engine, Stream stream, int64_t bytes)
    : engine_(&engine), chunk_(steps_between(engine.model())), most_bytes_(bytes), stream_(std::move(stream)) {
  keep();
}

void RewindableStream::read(std::span<const int64_t> tokens) {
  while (!tokens.empty()) {
    const int64_t left = chunk_ - stream_.tokens() % chunk_;
    const auto part = tokens.first(std::min(tokens.size(), static_cast<size_t>(left)));
    engine_->read(stream_, part);
    std::vector<int64_t>& read = kept_.back().read;
    read.insert(read.end(), part.begin(), part.end());
    if (stream_.tokens() % chunk_ == 0) keep();
    tokens = tokens.subspan(part.size());
  }
}

int64_t RewindableStream::rewind(int64_t tokens) {
  check(tokens >= earliest() && tokens <= stream_.tokens(),
        "[rewind] expected a position from {} to {}, which can be gone back to, got {}", earliest(), stream_.tokens(),
        tokens);
  if (tokens == stream_.tokens()) return 0;
  const auto after = [](int64_t position, const Kept& kept) { return position < kept.stream.tokens(); };
  const auto next = std::upper_bound(kept_.begin(), kept_.end(), tokens, after);
  Kept& from = *std::prev(next);
  Stream stream = from.stream;
  const auto again = static_cast<size_t>(tokens - stream.tokens());
  engine_->read(stream, std::span(from.read).first(again));
  from.read.resize(again);
  kept_.erase(next, kept_.end());
  stream_ = std::move(stream);
  kept_bytes_ = 0;
  for (const Kept& kept : kept_) kept_bytes_ += kept.bytes;
  return static_cast<int64_t>(again);
}

/// The state at hand. Its tokens are counted before they come, so that no count depends on how they are read.
void RewindableStream::keep() {
  Stream parked = engine_->parked(stream_);
  const int64_t bytes = engine_->bytes(parked) + chunk_ * static_cast<int64_t>(sizeof(int64_t));
  kept_.push_back({std::move(parked), bytes});
  kept_bytes_ += bytes;
  drop_oldest();
}

void RewindableStream::release() {
  held_ = kNoPosition;
  drop_oldest();
}

void RewindableStream::drop_oldest() {
  while (kept_bytes_ > most_bytes_ && kept_.size() > 1 && kept_[1].stream.tokens() <= held_) {
    kept_bytes_ -= kept_.front().bytes;
    kept_.pop_front();
  }
}

}  // namespace megalodon
