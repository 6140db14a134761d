// A stream that can go back: its state is kept at the ends of chunks, where it is small, and what was read since the
// one before a position is read again, at most one chunk.
#pragma once

#include <deque>
#include <limits>
#include <span>
#include <vector>

#include "infer/engine.h"

namespace megalodon {

class RewindableStream {
 public:
  static constexpr int64_t kDefaultBytes = int64_t{256} << 20;

  /// The engine must outlive it. It begins where `stream` is, and never goes back beyond that. `bytes`: of the states
  /// kept and the tokens between them, the oldest go first; the latest stays whatever it takes. Where `stream` is
  /// within a chunk, its keys and values are kept too until it is the oldest to go.
  explicit RewindableStream(const Engine& engine, Stream stream = {}, int64_t bytes = kDefaultBytes);

  const Stream& stream() const { return stream_; }
  /// Appends tokens. Throws as Engine::read() does, and may then have read those of chunks that ended before.
  void read(std::span<const int64_t> tokens);

  /// The first position that it can go back to.
  int64_t earliest() const { return kept_.front().stream.tokens(); }
  /// Goes back to where it had read `tokens` tokens, and returns how many of them it read again to get there: fewer
  /// than a chunk has. Up to the rounding of Engine::read() the stream is what it was. Throws Error for a position
  /// before earliest() or one that is not reached yet, and then changes nothing.
  int64_t rewind(int64_t tokens);

  /// Until release(), what it takes to go back to this position, which is in reach, stays whatever it takes.
  void hold(int64_t tokens) { held_ = tokens; }
  void release();

  /// Of what is kept to go back.
  int64_t bytes() const { return kept_bytes_; }

 private:
  static constexpr int64_t kNoPosition = std::numeric_limits<int64_t>::max();
  struct Kept {
    Stream stream;
    int64_t bytes = 0;               // of this, and of a chunk's tokens
    std::vector<int64_t> read = {};  // since, up to the next that is kept
  };
  void keep();
  void drop_oldest();

  const Engine* engine_;
  int64_t chunk_, most_bytes_;
  Stream stream_;
  std::deque<Kept> kept_;  // never empty, the oldest first
  int64_t kept_bytes_ = 0;
  int64_t held_ = kNoPosition;
};

}  // namespace megalodon
