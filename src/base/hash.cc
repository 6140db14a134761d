#include "base/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <array>

#include "base/check.h"
#include "base/file.h"

namespace megalodon {

struct Digest::Context {
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> handle{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

Digest::Digest(const char* algorithm) : context_(std::make_unique<Context>()) {
  const EVP_MD* method = EVP_get_digestbyname(algorithm);
  check(method != nullptr && context_->handle != nullptr &&
            EVP_DigestInit_ex(context_->handle.get(), method, nullptr) == 1,
        "[hash] OpenSSL has no {} here", algorithm);
}

Digest::~Digest() = default;

void Digest::update(const void* data, size_t bytes) {
  check(EVP_DigestUpdate(context_->handle.get(), data, bytes) == 1, "[hash] OpenSSL cannot hash");
}

std::string Digest::hex() {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned size = 0;
  check(EVP_DigestFinal_ex(context_->handle.get(), digest.data(), &size) == 1, "[hash] OpenSSL cannot hash");
  std::string text;
  for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", digest[i]);
  return text;
}

std::string sha256_hex(std::string_view text) {
  Sha256 hash;
  hash.update(text);
  return hash.hex();
}

std::string sha256_file(const std::filesystem::path& path) {
  const MappedFile file(path);
  Sha256 hash;
  hash.update(file.bytes().data(), file.bytes().size());
  return hash.hex();
}

uint64_t xxh3_64(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

uint64_t xxh3_64(std::string_view text) {
  return XXH3_64bits(text.data(), text.size());
}

struct Xxh3::State {
  std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> handle{XXH3_createState(), &XXH3_freeState};
};

Xxh3::Xxh3() : state_(std::make_unique<State>()) {
  check(state_->handle != nullptr && XXH3_64bits_reset(state_->handle.get()) == XXH_OK, "[hash] out of memory");
}

Xxh3::~Xxh3() = default;

void Xxh3::update(std::span<const std::byte> bytes) {
  check(XXH3_64bits_update(state_->handle.get(), bytes.data(), bytes.size()) == XXH_OK, "[hash] XXH3 cannot hash");
}

uint64_t Xxh3::value() const {
  return XXH3_64bits_digest(state_->handle.get());
}

std::string hex64(uint64_t value) {
  return fmt::format("{:016x}", value);
}

}  // namespace megalodon
