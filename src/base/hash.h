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

/// A cryptographic hash of what is written piece by piece.
class Digest {
 public:
  /// `algorithm` is OpenSSL's name for it.
  explicit Digest(const char* algorithm);
  ~Digest();
  Digest(const Digest&) = delete;
  Digest& operator=(const Digest&) = delete;

  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  /// Lower-case hexadecimal digits. Ends the computation: once, and last.
  std::string hex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

/// SHA-256 (FIPS 180-4), 64 digits.
class Sha256 final : public Digest {
 public:
  Sha256() : Digest("SHA256") {}
};

/// MD5 (RFC 1321), 32 digits: tells a damaged download from a whole one where nothing better is published; it is no
/// protection against malice.
class Md5 final : public Digest {
 public:
  Md5() : Digest("MD5") {}
};

std::string sha256_hex(std::string_view text);
/// Of a file, read in pieces. Throws Error with the path and the system's reason.
std::string sha256_file(const std::filesystem::path& path);

/// XXH3, 64 bits, seed 0.
uint64_t xxh3_64(std::span<const std::byte> bytes);
uint64_t xxh3_64(std::string_view text);

/// The same of what is written piece by piece.
class Xxh3 {
 public:
  Xxh3();
  ~Xxh3();
  Xxh3(const Xxh3&) = delete;
  Xxh3& operator=(const Xxh3&) = delete;

  void update(std::span<const std::byte> bytes);
  uint64_t value() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// 16 lower-case hexadecimal digits.
std::string hex64(uint64_t value);

}  // namespace megalodon
