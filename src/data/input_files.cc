#include "data/input_files.h"

#include <glob.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "base/check.h"

namespace megalodon::data {
namespace {

constexpr std::pair<std::string_view, Compression> kCompressions[] = {
    {".gz", Compression::kGzip},   {".zst", Compression::kZstd}, {".xz", Compression::kXz},
    {".bz2", Compression::kBzip2}, {".lz4", Compression::kLz4},
};
constexpr std::pair<std::string_view, Compression> kCompressedTars[] = {{".tgz", Compression::kGzip},
                                                                        {".tzst", Compression::kZstd},
                                                                        {".txz", Compression::kXz},
                                                                        {".tbz2", Compression::kBzip2}};

std::string lower_case(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return out;
}

void add(std::vector<InputFile>& files, const fs::path& path) {
  files.push_back({path, format_of(path.filename().string()), fs::file_size(path)});
}

/// The texts below a folder.
void search(const fs::path& folder, std::vector<InputFile>& files) {
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    if (entry.is_regular_file() && format_of(entry.path().filename().string()).searched) add(files, entry.path());
  }
}

std::vector<fs::path> match(const fs::path& pattern) {
  glob_t found{};
  const int status = ::glob(pattern.c_str(), GLOB_BRACE, nullptr, &found);
  std::vector<fs::path> paths;
  if (status == 0) paths.assign(found.gl_pathv, found.gl_pathv + found.gl_pathc);
  ::globfree(&found);
  return paths;
}

void add_existing(const fs::path& path, std::vector<InputFile>& files) {
  if (fs::is_directory(path)) {
    search(path, files);
  } else {
    check(fs::is_regular_file(path), "[data] input '{}' is neither a file nor a folder", path.string());
    add(files, path);
  }
}

/// What one argument stands for.
std::vector<InputFile> expand(const fs::path& input) {
  std::vector<InputFile> files;
  const bool pattern = !fs::exists(input) && std::strpbrk(input.c_str(), "*?[{") != nullptr;
  if (pattern) {
    for (const fs::path& path : match(input)) add_existing(path, files);
    check(!files.empty(), "[data] nothing matches '{}'", input.string());
  } else {
    check(fs::exists(input), "[data] input '{}' does not exist", input.string());
    add_existing(input, files);
  }
  if (pattern || fs::is_directory(input)) {
    std::erase_if(files, [](const InputFile& file) { return file.bytes == 0; });
    check(!files.empty(), "[data] '{}' holds no .txt, .jsonl, .ndjson or .tar file with something in it",
          input.string());
    std::sort(files.begin(), files.end(), [](const auto& a, const auto& b) { return a.path < b.path; });
  } else {
    check(files.front().bytes > 0, "[data] input '{}' is empty", input.string());
  }
  return files;
}

}  // namespace

FileFormat format_of(std::string_view name) {
  const std::string lower = lower_case(name);
  std::string_view rest = lower;
  FileFormat format;
  for (const auto& [suffix, compression] : kCompressedTars) {
    if (rest.ends_with(suffix)) return {Layout::kTar, compression, true};
  }
  for (const auto& [suffix, compression] : kCompressions) {
    if (!rest.ends_with(suffix)) continue;
    format.compression = compression;
    rest.remove_suffix(suffix.size());
    break;
  }
  format.searched = true;
  if (rest.ends_with(".txt")) return format;
  if (rest.ends_with(".tar")) {
    format.layout = Layout::kTar;
  } else if (rest.ends_with(".jsonl") || rest.ends_with(".ndjson")) {
    format.layout = Layout::kJsonLines;
  } else {
    format.layout = rest.ends_with(".json") ? Layout::kJsonLines : Layout::kText;
    format.searched = false;
  }
  return format;
}

const char* suffix_of(Compression compression) {
  for (const auto& [suffix, known] : kCompressions) {
    if (compression == known) return suffix.data();
  }
  return "";
}

std::vector<InputFile> find_inputs(const std::vector<fs::path>& inputs) {
  check(!inputs.empty(), "[data] expected at least one input, got none");
  std::vector<InputFile> files;
  std::set<fs::path> seen;
  for (const fs::path& input : inputs) {
    for (InputFile& file : expand(input)) {
      check(seen.insert(fs::canonical(file.path)).second, "[data] input '{}' is named twice", file.path.string());
      files.push_back(std::move(file));
    }
  }
  return files;
}

}  // namespace megalodon::data
