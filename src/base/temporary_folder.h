// A folder for files of this process alone, gone with the object.
#pragma once

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/file.h"

namespace megalodon {

class TemporaryFolder {
 public:
  /// Where the system keeps such things: $TMPDIR, or /tmp.
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "megalodon-XXXXXX").string();
    check(::mkdtemp(name.data()) != nullptr, "[{}] cannot be created: {}", name, std::strerror(errno));
    path_ = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const fs::path& path() const { return path_; }
  fs::path operator/(const char* name) const { return path_ / name; }

 private:
  fs::path path_;
};

}  // namespace megalodon
