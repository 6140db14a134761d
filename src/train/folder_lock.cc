#include "train/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/check.h"

namespace megalodon {

std::shared_ptr<const void> lock_folder(const fs::path& folder) {
  const fs::path path = folder / "lock";
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, mode_t{0666});
  check(descriptor >= 0, "[train.out] cannot create '{}': {}", path.string(), std::strerror(errno));
  static const char kNothing = 0;
  auto owner = std::shared_ptr<const void>(&kNothing, [descriptor](const void*) { ::close(descriptor); });
  const bool taken = ::flock(descriptor, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  check(!taken, "[train.out] another process is training in '{}'", folder.string());
  return owner;
}

}  // namespace megalodon
