// What the readers and writers of binary files share: bounds-checked reading, little-endian writing, and error messages
// that say which file they are about.
#pragma once

#include <bit>
#include <cstddef>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>

#include "base/check.h"
#include "base/utf8.h"  // printable(), for messages that quote a file

namespace megalodon::io {

static_assert(std::endian::native == std::endian::little,
              "the formats are little-endian and their bytes are not swapped");

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

/// Reads forward through bytes and throws rather than read past their end.
class ByteReader {
 public:
  explicit ByteReader(std::span<const std::byte> bytes, size_t offset = 0) : bytes_(bytes), offset_(offset) {
    check(offset <= bytes.size(), "offset {} is past the end at {}", offset, bytes.size());
  }

  std::span<const std::byte> all() const { return bytes_; }
  size_t offset() const { return offset_; }
  size_t remaining() const { return bytes_.size() - offset_; }

  std::span<const std::byte> take(size_t count) {
    check(count <= remaining(), "{} bytes expected at offset {}, {} left", count, offset_, remaining());
    const std::span<const std::byte> taken = bytes_.subspan(offset_, count);
    offset_ += count;
    return taken;
  }

  template <class T>
  T read() {
    static_assert(std::is_integral_v<T>);
    T value;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }

 private:
  std::span<const std::byte> bytes_;
  size_t offset_;
};

template <class T>
void append(std::string& out, T value) {
  static_assert(std::is_integral_v<T>);
  const size_t end = out.size();
  out.resize(end + sizeof value);
  std::memcpy(out.data() + end, &value, sizeof value);
}

/// Runs a parser and says in its errors which file they are about.
template <class Parse>
auto with_context(std::string_view context, Parse&& parse) {
  try {
    return parse();
  } catch (const Error& error) {
    throw Error(fmt::format("{}: {}", context, error.what()));
  }
}

}  // namespace megalodon::io
