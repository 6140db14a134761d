// Folders that one process at a time may train in.
#pragma once

#include <memory>

#include "base/file.h"

namespace megalodon {

/// Claims an existing folder, by a file `lock` in it, until the last copy of the result goes, or the process ends,
/// however that does. Throws Error where another process has it. On file systems without locks everybody gets it.
std::shared_ptr<const void> lock_folder(const fs::path& folder);

}  // namespace megalodon
