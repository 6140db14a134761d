#pragma once

#include <vector>

#include "base/file.h"

namespace megalodon {

/// A folder for files to come, made with its parents where they are missing. Of those it made it removes, when it goes,
/// the ones that are empty: a command that is refused leaves nothing behind.
class OutputFolder {
 public:
  /// "" is the current folder. Throws Error, naming `path`, where it cannot be made.
  explicit OutputFolder(const fs::path& path);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::vector<fs::path> made_;  // innermost first
};

}  // namespace megalodon
