// Which files a command line means, and what each of them is. That follows from the name alone:
//
//   .txt             text                     .gz .zst .xz .bz2 .lz4 behind any of them: compressed
//   .jsonl .ndjson   one JSON object a line   .tgz .tzst .txz .tbz2: a compressed tar
//   .json            the same (folders are not searched for it: it may be anything)
//   .tar             an archive of text and JSON lines
//   other names      text (folders are not searched for it)
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "base/file.h"

namespace megalodon::data {

enum class Layout { kText, kJsonLines, kTar };
enum class Compression { kNone, kGzip, kZstd, kXz, kBzip2, kLz4 };

struct FileFormat {
  Layout layout = Layout::kText;
  Compression compression = Compression::kNone;
  bool searched = false;  // whether folders and archives are searched for such names
};

FileFormat format_of(std::string_view name);
/// ".zst"
const char* suffix_of(Compression compression);

struct InputFile {
  fs::path path;
  FileFormat format;
  uint64_t bytes = 0;  // on the disk
};

/// Files stand for themselves, folders for the texts below them, names with *, ? or [ that are no file for what they
/// match. Files of a folder or pattern come in the order of their names, whatever the file system says, and those that
/// are empty are left out. Throws Error for what does not exist, an empty file named by itself, a folder or pattern
/// without texts, and a file named twice (it would be counted twice, and could lie on both sides of a split).
std::vector<InputFile> find_inputs(const std::vector<fs::path>& inputs);

}  // namespace megalodon::data
