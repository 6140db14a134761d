// Text that ends a stream of text, wherever its pieces are cut.
#pragma once

#include <string>
#include <string_view>

namespace megalodon {

/// Passes bytes on until the stop text occurs. What may be its beginning is held back until that is known.
class StopText {
 public:
  /// Empty: nothing stops it.
  explicit StopText(std::string stop) : stop_(std::move(stop)) {}
  /// The bytes that surely come before the stop text; none once it has occurred.
  std::string push(std::string_view bytes);
  /// What is still held back where the stream ends without the stop text.
  std::string finish();

  bool found() const { return found_; }
  /// Something is held back.
  bool holds() const { return !held_.empty(); }
  /// Bytes pushed after the stop text.
  size_t beyond() const { return found_ ? held_.size() : 0; }

 private:
  std::string stop_, held_;
  bool found_ = false;
};

}  // namespace megalodon
