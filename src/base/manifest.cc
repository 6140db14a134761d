#include "base/manifest.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/parallel.h"

namespace megalodon {
namespace {

using Json = nlohmann::json;

constexpr const char* kFormat = "megalodon.cpp manifest";
constexpr int kFormatVersion = 1;
constexpr uint64_t kWorthThreads = uint64_t{1} << 26;  // a hundredth of a second's hashing

std::string to_text(std::span<const FileSum> files) {
  Json list = Json::object();
  for (const FileSum& file : files) list[file.name] = {{"bytes", file.bytes}, {"xxh3_64", hex64(file.xxh3)}};
  const std::string own = hex64(xxh3_64(list.dump()));
  const nlohmann::ordered_json tree = {
      {"format", kFormat}, {"format_version", kFormatVersion}, {"files", list}, {"xxh3_64", own}};
  return tree.dump(2) + "\n";
}

/// A path downwards: a manifest that comes from elsewhere must not lead out of its folder.
bool is_inside(const std::string& name) {
  const fs::path path(name);
  return !name.empty() && path.is_relative() && name.find('\0') == std::string::npos &&
         std::none_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".." || part.empty(); });
}

std::vector<FileSum> read_manifest(const fs::path& folder) {
  const fs::path path = folder / kManifestName;
  check(fs::is_regular_file(fs::symlink_status(path)),
        "[checkpoint] '{}' has no {}: no checkpoint, or not a complete one", folder.string(), kManifestName);
  const std::string text = read_file(path);
  std::vector<FileSum> files;
  const Json tree = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  const auto list = tree.is_object() ? tree.find("files") : tree.end();
  if (list != tree.end() && list->is_object())
    for (const auto& [name, entry] : list->items()) {
      const Json bytes = entry.is_object() ? entry.value("bytes", Json()) : Json();
      const Json sum = entry.is_object() ? entry.value("xxh3_64", Json()) : Json();
      if (!bytes.is_number_unsigned() || !sum.is_string() || !is_inside(name)) break;
      files.push_back({name, bytes.get<uint64_t>(), std::strtoull(sum.get<std::string>().c_str(), nullptr, 16)});
    }
  // There is one way to write these sums: whatever differs from it anywhere is damage.
  check(to_text(files) == text, "[checkpoint] '{}' is damaged: its contents do not fit its own checksum",
        path.string());
  return files;
}

/// What is wrong with the file; "" if nothing is.
std::string difference(const fs::path& folder, const FileSum& expected) {
  const fs::path path = folder / expected.name;
  if (!fs::is_regular_file(fs::symlink_status(path))) return fmt::format("'{}' is missing", path.string());
  if (const uint64_t bytes = fs::file_size(path); bytes != expected.bytes)
    return fmt::format("'{}' is damaged: expected {} bytes, got {}", path.string(), expected.bytes, bytes);
  Xxh3 sum;
  read_pieces(path, [&](std::span<const std::byte> piece) { sum.update(piece); });
  if (sum.value() != expected.xxh3)
    return fmt::format("'{}' is damaged: expected XXH3-64 {}, got {}", path.string(), hex64(expected.xxh3),
                       hex64(sum.value()));
  return "";
}

}  // namespace

void write_manifest(const fs::path& folder, std::span<const FileSum> files) {
  write_file_atomically(folder / kManifestName, to_text(files));
}

void verify_manifest(const fs::path& folder, const std::function<bool(const std::string&)>& wanted) {
  std::vector<FileSum> files = read_manifest(folder);
  std::erase_if(files, [&](const FileSum& file) { return !wanted(file.name); });
  std::vector<std::string> problems(files.size());
  uint64_t bytes = 0;
  for (const FileSum& file : files) bytes += file.bytes;
  const auto compare = [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    try {
      problems[at] = difference(folder, files[at]);
    } catch (const std::exception& error) {  // must not leave the loop
      problems[at] = error.what();
    }
  };
  const auto count = static_cast<int64_t>(files.size());
  if (bytes < kWorthThreads) {
    for (int64_t i = 0; i < count; ++i) compare(i);
  } else {
    parallel_for(count, compare);
  }
  std::erase(problems, "");
  check(problems.empty(), "[checkpoint] {}", fmt::join(problems, "; "));
}

}  // namespace megalodon
