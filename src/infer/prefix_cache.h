// Prompts that begin alike are read once: streams by the tokens that they have read, at the ends of chunks, where their
// state is small.
#pragma once

#include <list>
#include <map>
#include <span>

#include "base/file.h"
#include "infer/engine.h"

namespace megalodon {

struct PrefixCacheOptions {
  int64_t bytes = int64_t{1} << 30;          // of states in memory; those used least recently go first
  fs::path folder = {};                      // where snapshots are kept too, across processes; empty: nowhere
  int64_t folder_bytes = int64_t{10} << 30;  // of its files; the oldest go first
};

class PrefixCache {
 public:
  /// The engine must outlive it. Creates the folder. Throws Error for a model without chunks.
  PrefixCache(const Engine& engine, PrefixCacheOptions options = {});

  /// A stream that has read the whole prompt: goes on from the longest known prefix, reads the rest, and keeps what it
  /// is at the end of every chunk.
  Stream read(std::span<const int64_t> prompt);

  /// Tokens that read() did not have to read so far.
  int64_t saved_tokens() const { return saved_tokens_; }
  /// Of the states in memory.
  int64_t bytes() const { return bytes_; }

 private:
  struct Entry {
    std::string key;
    Stream stream;
    int64_t bytes;
  };
  std::vector<std::string> keys_of(std::span<const int64_t> prompt) const;
  Stream longest(const std::vector<std::string>& keys);
  void keep(const std::string& key, const Stream& stream);
  void keep_in_memory(const std::string& key, Stream stream);
  void keep_in_folder(const std::string& key, const Stream& stream) const;
  fs::path file_of(const std::string& key) const { return options_.folder / (key + ".safetensors"); }

  const Engine& engine_;
  PrefixCacheOptions options_;
  int64_t chunk_;
  std::list<Entry> entries_;  // the most recently used first
  std::map<std::string, std::list<Entry>::iterator> by_key_;
  int64_t bytes_ = 0, saved_tokens_ = 0;
};

}  // namespace megalodon
