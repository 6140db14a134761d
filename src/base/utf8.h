// Turns a stream of bytes into pieces of valid UTF-8.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace megalodon {

/// U+FFFD, which stands for ill-formed text.
inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// Bytes go in as they come; what comes out is always valid UTF-8. A character that is not complete is held back until
/// it is; bytes that can belong to no character become U+FFFD, one per maximal ill-formed part (Unicode 15, table 3-8).
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  /// What is still held back, as U+FFFD.
  std::string finish();
  /// What is held back: at most three bytes. A stream that they are pushed into goes on as this one would.
  const std::string& pending() const { return pending_; }

 private:
  std::string pending_;
};

bool is_valid_utf8(std::string_view text);

/// The first character of a text that is not empty; `length` is 1 where its first byte begins none.
struct Utf8Character {
  uint32_t code;
  size_t length;
  bool valid;
};
Utf8Character first_character(std::string_view text);

/// Text from outside for one line of a message: control characters as \n or \x1B, ill-formed bytes as U+FFFD, and an
/// ellipsis for what lies beyond `most` bytes.
std::string printable(std::string_view text, size_t most = 120);

}  // namespace megalodon
