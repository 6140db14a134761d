#include "infer/prefix_cache.h"

#include <algorithm>

#include "base/check.h"
#include "base/hash.h"
#include "infer/snapshot.h"

namespace megalodon {

PrefixCache::PrefixCache(const Engine& engine, PrefixCacheOptions options)
    : engine_(engine), options_(std::move(options)), chunk_(engine.model().info().chunk_size) {
  check(chunk_ > 0, "[prefix cache] the model has no chunks at whose ends its state is small");
  if (options_.folder.empty()) return;
  std::error_code error;
  fs::create_directories(options_.folder, error);
  check(!error, "[prefix cache] cannot create '{}': {}", options_.folder.string(), error.message());
}

/// Of the prompt's first chunk, of its first two, and so on: each a hash of the model, the key before and the tokens.
std::vector<std::string> PrefixCache::keys_of(std::span<const int64_t> prompt) const {
  std::vector<std::string> keys;
  std::string before = engine_.fingerprint();
  const auto size = static_cast<size_t>(chunk_);
  for (size_t end = size; end <= prompt.size(); end += size) {
    const auto tokens = std::as_bytes(prompt.subspan(end - size, size));
    before.append(reinterpret_cast<const char*>(tokens.data()), tokens.size());
    const Hash128 hash = xxh3_128(before);
    before = hex64(hash.high) + hex64(hash.low);
    keys.push_back(before);
  }
  return keys;
}

Stream PrefixCache::read(std::span<const int64_t> prompt) {
  const std::vector<std::string> keys = keys_of(prompt);
  Stream stream = longest(keys);
  saved_tokens_ += stream.tokens();
  while (stream.tokens() < static_cast<int64_t>(prompt.size())) {
    const int64_t left = static_cast<int64_t>(prompt.size()) - stream.tokens();
    const int64_t count = std::min(left, chunk_ - stream.tokens() % chunk_);
    engine_.read(stream, prompt.subspan(static_cast<size_t>(stream.tokens()), static_cast<size_t>(count)));
    if (stream.tokens() % chunk_ == 0) keep(keys[static_cast<size_t>(stream.tokens() / chunk_ - 1)], stream);
  }
  return stream;
}

Stream PrefixCache::longest(const std::vector<std::string>& keys) {
  std::error_code unreadable;
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    if (const auto found = by_key_.find(*key); found != by_key_.end()) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return entries_.front().stream;
    }
    if (options_.folder.empty() || !fs::exists(file_of(*key), unreadable)) continue;
    try {
      Snapshot found = load_snapshot(file_of(*key), engine_);
      check(found.more == *key, "['{}'] is of another prefix", file_of(*key).string());  // somebody renamed it
      keep_in_memory(*key, found.stream);
      return found.stream;
    } catch (const Error&) {  // damaged, or just removed by another process: a shorter prefix, then
    }
  }
  return {};
}

void PrefixCache::keep(const std::string& key, const Stream& stream) {
  Stream parked = engine_.parked(stream);
  if (!options_.folder.empty()) keep_in_folder(key, parked);
  keep_in_memory(key, std::move(parked));
}

void PrefixCache::keep_in_memory(const std::string& key, Stream stream) {
  if (by_key_.contains(key)) return;
  const int64_t bytes = engine_.bytes(stream);
  if (bytes > options_.bytes) return;
  entries_.push_front({key, std::move(stream), bytes});
  by_key_[key] = entries_.begin();
  bytes_ += bytes;
  while (bytes_ > options_.bytes) {
    bytes_ -= entries_.back().bytes;
    by_key_.erase(entries_.back().key);
    entries_.pop_back();
  }
}

/// Where the disk is full or the folder gone, prompts are read as before: that is no reason to stop.
void PrefixCache::keep_in_folder(const std::string& key, const Stream& stream) const {
  struct File {
    fs::file_time_type written;
    fs::path path;
    int64_t bytes;
  };
  try {
    save_snapshot(file_of(key), engine_, {stream, key});
    std::vector<File> files;
    int64_t total = 0;
    for (const auto& entry : fs::directory_iterator(options_.folder)) {
      if (entry.path().extension() != ".safetensors") continue;
      files.push_back({entry.last_write_time(), entry.path(), static_cast<int64_t>(entry.file_size())});
      total += files.back().bytes;
    }
    std::sort(files.begin(), files.end(), [](const File& a, const File& b) { return a.written < b.written; });
    for (const File& file : files) {
      if (total <= options_.folder_bytes) break;
      fs::remove(file.path);
      total -= file.bytes;
    }
  } catch (const Error&) {
  } catch (const fs::filesystem_error&) {
  }
}

}  // namespace megalodon
