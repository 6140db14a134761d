#include "data/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

constexpr uint64_t kRatio = 200;  // text compresses 20-fold at most; a bomb's layer of deflate a thousandfold
constexpr uint64_t kAlways = uint64_t{16} << 20;  // a small archive of padding is no bomb
constexpr size_t kEntryNameBytes = 200;           // of a name in an error
constexpr size_t kReadBytes = size_t{1} << 20;

class Unpacker {
 public:
  Unpacker(const fs::path& archive, const UnpackLimits& limits, const ByteProgress& progress);
  void unpack_to(const fs::path& folder);

 private:
  /// Throws for any code but success: half a file is no file, so warnings count too.
  void expect(int code, const char* action) const;
  [[noreturn]] void refuse(const char* name, std::string_view why) const;
  std::string safe_name(archive_entry* entry) const;
  void check_kind(archive_entry* entry, const char* name) const;
  void check_size(uint64_t more, const char* name) const;
  void write_file(archive_entry* entry, const fs::path& path, const char* name);
  void report() const;

  fs::path path_;
  UnpackLimits limits_;
  const ByteProgress& progress_;
  uint64_t archive_bytes_;
  std::unique_ptr<archive, int (*)(archive*)> archive_;
  std::vector<char> buffer_;
  uint64_t entries_ = 0, bytes_ = 0;
};

Unpacker::Unpacker(const fs::path& path, const UnpackLimits& limits, const ByteProgress& progress)
    : path_(path),
      limits_(limits),
      progress_(progress),
      archive_bytes_(fs::file_size(path)),
      archive_(archive_read_new(), archive_read_free),
      buffer_(kReadBytes) {
  check(archive_ != nullptr, "[unpack] libarchive cannot start");
  if (limits_.bytes == 0) limits_.bytes = std::max(archive_bytes_ * kRatio, kAlways);
  // These and no others: libarchive's readers of rarer formats are what attackers look at first.
  for (const auto add :
       {archive_read_support_filter_gzip, archive_read_support_filter_bzip2, archive_read_support_filter_xz,
        archive_read_support_filter_zstd, archive_read_support_format_tar, archive_read_support_format_zip})
    expect(add(archive_.get()), "prepare to read");
  expect(archive_read_open_filename(archive_.get(), path_.c_str(), kReadBytes), "open");
}

void Unpacker::expect(int code, const char* action) const {
  if (code == ARCHIVE_OK) return;
  const char* reason = archive_error_string(archive_.get());
  fail("[unpack] cannot {} '{}': {}", action, path_.string(), reason != nullptr ? reason : "unknown error");
}

void Unpacker::refuse(const char* name, std::string_view why) const {
  fail("[unpack] '{}' is refused: its entry '{}' {}", path_.string(), printable(name, kEntryNameBytes), why);
}

/// The entry's name without "." parts. libarchive gives names in the locale's encoding, or only as UTF-8 where that
/// lacks a character.
std::string Unpacker::safe_name(archive_entry* entry) const {
  const char* name = archive_entry_pathname(entry);
  if (name == nullptr) name = archive_entry_pathname_utf8(entry);
  if (name == nullptr || *name == '\0') refuse("", "has no name");
  if (name[0] == '/') refuse(name, "has an absolute path");
  std::string safe;
  std::string_view rest(name);
  while (!rest.empty()) {
    const size_t slash = std::min(rest.find('/'), rest.size());
    const std::string_view part = rest.substr(0, slash);
    rest.remove_prefix(std::min(slash + 1, rest.size()));
    if (part == "..") refuse(name, "leaves the folder with '..'");
    if (part.find('\\') != std::string_view::npos) refuse(name, "has a backslash in its name");
    if (part.empty() || part == ".") continue;
    if (!safe.empty()) safe += '/';
    safe += part;
  }
  return safe;
}

void Unpacker::check_kind(archive_entry* entry, const char* name) const {
  if (archive_entry_hardlink(entry) != nullptr || archive_entry_symlink(entry) != nullptr) refuse(name, "is a link");
  const auto kind = archive_entry_filetype(entry);
  if (kind != AE_IFREG && kind != AE_IFDIR) refuse(name, "is neither a file nor a folder");
  if (archive_entry_is_encrypted(entry) != 0) refuse(name, "is encrypted");
}

void Unpacker::check_size(uint64_t more, const char* name) const {
  if (more > limits_.bytes - bytes_)
    refuse(name, fmt::format("brings what is unpacked beyond the limit of {} bytes", limits_.bytes));
}

void Unpacker::write_file(archive_entry* entry, const fs::path& path, const char* name) {
  if (archive_entry_size_is_set(entry) != 0) {
    const int64_t size = archive_entry_size(entry);
    if (size < 0) refuse(name, "has a negative size");
    check_size(static_cast<uint64_t>(size), name);
  }
  // The folder is fresh and ours, so whatever is there came from an entry before.
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, mode_t{0666});
  if (descriptor < 0 && errno == EEXIST) refuse(name, "comes twice");
  check(descriptor >= 0, "[unpack] cannot create '{}': {}", path.string(), std::strerror(errno));
  const std::unique_ptr<const int, void (*)(const int*)> guard(&descriptor, [](const int* open) { ::close(*open); });
  while (true) {
    const auto got = archive_read_data(archive_.get(), buffer_.data(), buffer_.size());
    if (got < 0) expect(ARCHIVE_FATAL, "unpack");
    if (got == 0) break;
    check_size(static_cast<uint64_t>(got), name);
    bytes_ += static_cast<uint64_t>(got);
    for (ssize_t done = 0; done < got;) {
      const ssize_t part = ::write(descriptor, buffer_.data() + done, static_cast<size_t>(got - done));
      if (part < 0 && errno == EINTR) continue;
      check(part >= 0, "[unpack] cannot write '{}': {}", path.string(), std::strerror(errno));
      done += part;
    }
    report();
  }
}

void Unpacker::report() const {
  const auto done = static_cast<uint64_t>(std::max<int64_t>(archive_filter_bytes(archive_.get(), -1), 0));
  if (progress_) progress_(std::min(done, archive_bytes_), archive_bytes_);
}

void Unpacker::unpack_to(const fs::path& folder) {
  archive_entry* entry = nullptr;
  while (true) {
    const int code = archive_read_next_header(archive_.get(), &entry);
    if (code == ARCHIVE_EOF) break;
    // A warning here says that a name cannot be shown in this locale; UTF-8 is at hand.
    if (code != ARCHIVE_WARN) expect(code, "read");
    const std::string name = safe_name(entry);
    if (++entries_ > limits_.entries)
      refuse(name.c_str(), fmt::format("is beyond the limit of {} entries", limits_.entries));
    check_kind(entry, name.c_str());
    if (name.empty()) continue;  // "./", the folder itself
    const fs::path path = folder / name;
    std::error_code error;
    fs::create_directories(archive_entry_filetype(entry) == AE_IFDIR ? path : path.parent_path(), error);
    if (error) refuse(name.c_str(), fmt::format("cannot be made: {}", error.message()));
    if (archive_entry_filetype(entry) == AE_IFREG) write_file(entry, path, name.c_str());
    report();
  }
  check(entries_ > 0, "[unpack] '{}' holds nothing", path_.string());
  if (progress_) progress_(archive_bytes_, archive_bytes_);
}

}  // namespace

void unpack(const fs::path& archive, const fs::path& folder, const UnpackLimits& limits, const ByteProgress& progress) {
  check(fs::is_regular_file(archive), "[unpack] '{}' is not a file", archive.string());
  Unpacker unpacker(archive, limits, progress);
  write_folder_atomically(folder, [&](const fs::path& temporary) { unpacker.unpack_to(temporary); });
}

}  // namespace megalodon::data
