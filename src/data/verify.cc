#include "data/verify.h"

#include <fmt/format.h>

#include "base/check.h"
#include "base/hash.h"

namespace megalodon::data {
namespace {

fs::path hash_path(const fs::path& path) {
  return path.string() + ".sha256";
}

/// The hash recorded beside the file, or "".
std::string recorded_hash(const fs::path& path) {
  return fs::is_regular_file(hash_path(path)) ? read_file(hash_path(path)).substr(0, 64) : std::string();
}

std::string differs(const char* what, const std::string& expected, const std::string& got) {
  return expected.empty() || expected == got ? std::string() : fmt::format("{} {}, expected {}", what, got, expected);
}

}  // namespace

std::string find_mismatch(const RemoteFile& file, const fs::path& path, const fs::path& target) {
  const auto size = static_cast<int64_t>(fs::file_size(path));
  if (file.size >= 0 && size != file.size) return fmt::format("has {} bytes, expected {}", size, file.size);
  if (size > file.max_bytes) return fmt::format("has {} bytes, the limit is {}", size, file.max_bytes);
  std::string wrong;
  if (!file.sha256.empty()) {
    wrong = differs("has SHA-256", file.sha256, sha256_file(path));
  } else if (!file.md5.empty()) {
    wrong = differs("has MD5", file.md5, md5_file(path));
  } else if (const std::string recorded = recorded_hash(target); !recorded.empty()) {
    wrong = differs("has SHA-256", recorded, sha256_file(path));
    if (!wrong.empty())
      wrong += fmt::format(" (recorded in '{}' from an earlier download)", hash_path(target).string());
  }
  return wrong;
}

std::string record_hash(const RemoteFile& file, const fs::path& target) {
  if (!file.sha256.empty() || !file.md5.empty() || !recorded_hash(target).empty()) return {};
  std::string hash = sha256_file(target);
  write_file_atomically(hash_path(target), fmt::format("{}  {}\n", hash, target.filename().string()));
  return hash;
}

void copy_verified(const RemoteFile& file, const fs::path& source, const fs::path& target,
                   const ByteProgress& progress) {
  constexpr size_t kPiece = size_t{8} << 20;
  check(fs::is_regular_file(source), "[data get] '{}' is not a file", source.string());
  const std::string mismatch = find_mismatch(file, source, target);
  check(mismatch.empty(), "[data get] '{}' is not the file wanted: it {}", source.string(), mismatch);
  std::error_code error;
  if (fs::equivalent(source, target, error)) return;
  const MappedFile bytes(source);
  const std::string_view text(reinterpret_cast<const char*>(bytes.bytes().data()), bytes.bytes().size());
  AtomicFile copy(target);
  for (size_t at = 0; at < text.size(); at += kPiece) {
    copy.write(text.substr(at, kPiece));
    if (progress) progress(copy.size(), text.size());
  }
  copy.publish();
}

}  // namespace megalodon::data
