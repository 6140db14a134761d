// Tensors in a folder, under a name: NAME.safetensors, or, where that would be too large for one file, shards as
// transformers writes them: NAME-00001-of-00002.safetensors, … and NAME.safetensors.index.json, which says where each
// tensor is: {"metadata": {"total_size": 8}, "weight_map": {"embed.weight": "NAME-00001-of-00002.safetensors", …}}.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/manifest.h"
#include "io/tensor_file.h"

namespace megalodon::io {

inline constexpr uint64_t kMaxShardBytes = 5'000'000'000;  // what transformers takes for a large file

/// Whether the folder holds tensors under this name.
bool has_tensors(const fs::path& folder, const std::string& name);

/// Either form. Throws Error where there is neither or both, for an index that names anything but plain files of the
/// folder (no path, symlink or device), and with a list of every tensor and shard that is not where it says.
TensorFile read_tensors(const fs::path& folder, const std::string& name);

/// Shards in the order given, of `max_shard_bytes` of tensors at most (or of one that is larger). Each file is written
/// atomically, all of them together only inside write_folder_atomically(). Returns what was written.
std::vector<FileSum> write_tensors(const fs::path& folder, const std::string& name, std::span<const TensorView> tensors,
                                   uint64_t max_shard_bytes = kMaxShardBytes);

}  // namespace megalodon::io
