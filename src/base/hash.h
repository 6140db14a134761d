// Hashes: SHA-256 says what a file is (identity that outsiders can check too), XXH3 notices damage and copies, at the
// speed of memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace megalodon {

/// SHA-256 (FIPS 180-4) of what is written piece by piece.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  /// 64 lower-case hexadecimal digits. Ends the computation: once, and last.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

std::string sha256_hex(std::string_view text);
/// Of a file, read in pieces. Throws Error with the path and the system's reason.
std::string sha256_file(const std::filesystem::path& path);

/// XXH3, 64 bits, seed 0.
uint64_t xxh3_64(std::span<const std::byte> bytes);
uint64_t xxh3_64(std::string_view text);

/// 16 lower-case hexadecimal digits.
std::string hex64(uint64_t value);

}  // namespace megalodon
