// Whether a file is the one that the catalogue describes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/file.h"
#include "data/catalog.h"

namespace megalodon::data {

/// Called with the bytes that are there and those there will be (0: not known). What it throws ends the work.
using ByteProgress = std::function<void(uint64_t done, uint64_t total)>;

/// What tells the file at `path` from the one described: size and hash; "" where nothing does. Where no hash is known,
/// one that record_hash() left beside `target` counts.
std::string find_mismatch(const RemoteFile& file, const fs::path& path, const fs::path& target);

/// Writes the SHA-256 of a file that nobody publishes a hash of to <target>.sha256, in the format of sha256sum, so that
/// it is held to it from now on. Returns the hash; "" where one is known or recorded already.
std::string record_hash(const RemoteFile& file, const fs::path& target);

/// Copies a file that is here already, as if downloaded: verified, then published.
void copy_verified(const RemoteFile& file, const fs::path& source, const fs::path& target,
                   const ByteProgress& progress = {});

}  // namespace megalodon::data
