// The file that a download grows in, <target>.part, and what is known of its source, <target>.part.json.
#pragma once

#include <cstdint>
#include <string>

#include "base/file.h"

namespace megalodon::data {

class PartFile {
 public:
  /// Opens the part that an earlier download left, or an empty one. Throws Error where another process is at it.
  explicit PartFile(const fs::path& target);
  ~PartFile();
  PartFile(const PartFile&) = delete;
  PartFile& operator=(const PartFile&) = delete;

  const fs::path& path() const { return path_; }
  uint64_t size() const { return size_; }
  /// The server's name for the version of the file that the part belongs to (an ETag, or a date of modification); ""
  /// where it came from elsewhere or that is not known: then it cannot be continued.
  std::string validator(const std::string& url) const;
  /// Empties the part; what follows comes from `url`.
  void restart(const std::string& url, const std::string& validator);
  /// Throws Error with the system's reason.
  void append(const char* data, size_t bytes);
  /// Empties the part; one that is empty in the end is removed.
  void discard();
  /// Syncs the part and renames it to the target.
  void publish();

 private:
  fs::path target_, path_, source_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
  bool published_ = false;
};

}  // namespace megalodon::data
