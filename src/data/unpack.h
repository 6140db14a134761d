// Unpacks archives from the network: zip, and tar with or without gzip, bzip2, xz or zstd.
#pragma once

#include <cstdint>

#include "base/file.h"
#include "data/verify.h"

namespace megalodon::data {

struct UnpackLimits {
  uint64_t bytes = 0;  // of all files together; 0: 200 times the archive's size, at least 16 MiB
  uint64_t entries = 1000000;
};

/// Unpacks into a fresh folder beside `folder` and publishes it at `folder`, whole or not at all, in place of what was
/// there. Nothing but files and folders comes out: an archive with an absolute path, a "..", a link, a device, a name
/// given twice, a password or more than `limits` is refused, with the entry's name. Modes, owners and times are not
/// taken over. Progress counts bytes of the archive.
void unpack(const fs::path& archive, const fs::path& folder, const UnpackLimits& limits,
            const ByteProgress& progress = {});

}  // namespace megalodon::data
