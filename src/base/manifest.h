// manifest.json: size and XXH3-64 of every file of a folder, so that damage is noticed before anything is read from it.
//
//   {"format": "megalodon.cpp manifest", "format_version": 1,
//    "files": {"config.json": {"bytes": 512, "xxh3_64": "0123456789abcdef"}, …},
//    "xxh3_64": "…"}                                                            of "files", so of the manifest itself
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

#include "base/file.h"

namespace megalodon {

inline constexpr const char* kManifestName = "manifest.json";

struct FileSum {
  std::string name;  // within the folder, with '/' between its parts
  uint64_t bytes = 0;
  uint64_t xxh3 = 0;
};

/// Writes manifest.json: last, when the files are there.
void write_manifest(const fs::path& folder, std::span<const FileSum> files);

/// Compares the files that manifest.json lists, and `wanted` takes, with it. Throws Error naming every one that is
/// missing or differs; also where the manifest is missing or damaged itself. Files that it does not list are no matter.
void verify_manifest(
    const fs::path& folder,
    const std::function<bool(const std::string& name)>& wanted = [](const auto&) { return true; });

}  // namespace megalodon
