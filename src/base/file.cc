#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/system_call.h"

namespace megalodon {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;  // large enough that system calls cost nothing beside the copy
constexpr size_t kPieceBytes = size_t{1} << 18;   // as well, and stays in the second level cache

[[noreturn]] void fail_system(const char* action, const fs::path& path, int error) {
  fail("[file] cannot {} '{}': {}", action, path.string(), std::strerror(error));
}

void check_system(bool ok, const char* action, const fs::path& path) {
  if (!ok) fail_system(action, path, errno);
}

class Descriptor {
 public:
  Descriptor(const fs::path& path, int flags) : value_(retry([&] { return ::open(path.c_str(), flags | O_CLOEXEC); })) {
    check_system(value_ >= 0, "open", path);
  }
  ~Descriptor() { ::close(value_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

/// "out/run/" and "out/run" name the same folder; only the second has a file name to build siblings from.
fs::path without_trailing_slash(const fs::path& path) {
  return path.has_filename() ? path : path.parent_path();
}

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

fs::path sibling(const fs::path& path, const char* role) {
  return path.parent_path() / fmt::format(".{}.{}-{}", path.filename().string(), role, ::getpid());
}

/// What sibling() made the name of a temporary file from.
struct Temporary {
  std::string target;
  pid_t process;
};

std::optional<Temporary> parse_temporary(const fs::path& path) {
  constexpr std::string_view kRole = ".tmp-";
  const std::string name = path.filename().string();
  const size_t role = name.rfind(kRole);
  if (!name.starts_with('.') || role == std::string::npos || role < 2) return {};
  const std::string_view digits = std::string_view(name).substr(role + kRole.size());
  pid_t process = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), process);
  if (error != std::errc() || end != digits.data() + digits.size() || process <= 0 || digits[0] == '0') return {};
  return Temporary{name.substr(1, role - 1), process};
}

bool is_alive(pid_t process) {
  return ::kill(process, 0) == 0 || errno != ESRCH;
}

/// Of a file, or of all files in a folder.
Removed removable(const fs::path& path) {
  std::error_code error;  // what cannot be read counts as nothing
  if (!fs::is_directory(path)) return {1, fs::file_size(path, error)};
  Removed all;
  for (fs::recursive_directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error)) {
    if (!entry->is_regular_file(error)) continue;
    ++all.files;
    all.bytes += entry->file_size(error);
  }
  return all;
}

void rename_or_fail(const fs::path& from, const fs::path& to) {
  check_system(retry([&] { return std::rename(from.c_str(), to.c_str()); }) == 0, "rename to", to);
}

/// Puts the finished folder `temporary` at `path` and returns where the old one went ("" if there was none). The
/// exchange leaves no moment without a folder at `path`; file systems that lack it get two renames.
fs::path put_in_place(const fs::path& temporary, const fs::path& path) {
  if (!fs::exists(fs::symlink_status(path))) {
    rename_or_fail(temporary, path);
    return {};
  }
  const auto exchange = [&] {
    return ::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE);
  };
  if (retry(exchange) == 0) return temporary;
  check_system(errno == EINVAL || errno == ENOSYS || errno == ENOTSUP, "rename to", path);
  fs::path old = sibling(path, "old");
  fs::remove_all(old);
  rename_or_fail(path, old);
  try {
    rename_or_fail(temporary, path);
  } catch (const Error&) {
    std::rename(old.c_str(), path.c_str());
    throw;
  }
  return old;
}

}  // namespace

std::string read_file(const fs::path& path) {
  const Descriptor descriptor(path, O_RDONLY);
  struct stat status {};
  check_system(::fstat(descriptor.get(), &status) == 0, "inspect", path);
  // One byte beyond the size finds the end without growing; pipes and /proc report size 0 and grow.
  const size_t step = std::max<size_t>(static_cast<size_t>(status.st_size) + 1, size_t{1} << 16);
  std::string content;
  size_t used = 0;
  while (true) {
    if (used == content.size()) content.resize(used + step);
    const ssize_t got = retry([&] { return ::read(descriptor.get(), content.data() + used, content.size() - used); });
    check_system(got >= 0, "read", path);
    if (got == 0) break;
    used += static_cast<size_t>(got);
  }
  content.resize(used);
  return content;
}

void read_pieces(const fs::path& path, const std::function<void(std::span<const std::byte>)>& use) {
  const Descriptor descriptor(path, O_RDONLY);
  std::vector<std::byte> piece(kPieceBytes);
  for (;;) {
    const ssize_t got = retry([&] { return ::read(descriptor.get(), piece.data(), piece.size()); });
    check_system(got >= 0, "read", path);
    if (got == 0) return;
    use({piece.data(), static_cast<size_t>(got)});
  }
}

void sync_path(const fs::path& path) {
  const Descriptor descriptor(path, O_RDONLY);
  check_system(retry([&] { return ::fsync(descriptor.get()); }) == 0, "sync", path);
}

void write_file_atomically(const fs::path& path, std::string_view content) {
  AtomicFile file(path);
  file.write(content);
  file.publish();
}

AtomicFile::AtomicFile(fs::path path) : path_(std::move(path)), temporary_(sibling(path_, "tmp")) {
  check(path_.has_filename(), "[file] expected the name of a file to write, got '{}'", path_.string());
  descriptor_ = retry([&] { return ::open(temporary_.c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, mode_t{0666}); });
  check_system(descriptor_ >= 0, "create", temporary_);
  buffer_.reserve(kBufferBytes);
}

AtomicFile::~AtomicFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!published_) ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  check(descriptor_ >= 0, "[file] '{}' is closed and cannot be written any more", path_.string());
  const char* next = static_cast<const char*>(data);
  size_ += bytes;
  while (bytes > 0) {
    const size_t part = std::min(bytes, kBufferBytes - buffer_.size());
    buffer_.append(next, part);
    next += part;
    bytes -= part;
    if (buffer_.size() == kBufferBytes) flush();
  }
}

void AtomicFile::write_at(size_t offset, const void* data, size_t bytes) {
  check(descriptor_ >= 0, "[file] '{}' is closed and cannot be written any more", path_.string());
  check(offset <= size_ && bytes <= size_ - offset, "[file] write_at of {} bytes at {} is beyond the {} bytes of '{}'",
        bytes, offset, size_, path_.string());
  flush();
  const char* next = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t done = retry([&] { return ::pwrite(descriptor_, next, bytes, static_cast<off_t>(offset)); });
    check_system(done >= 0, "write", path_);
    next += done;
    offset += static_cast<size_t>(done);
    bytes -= static_cast<size_t>(done);
  }
}

void AtomicFile::read_at(size_t offset, void* data, size_t bytes) {
  check(descriptor_ >= 0, "[file] '{}' is closed and cannot be read any more", path_.string());
  check(offset <= size_ && bytes <= size_ - offset, "[file] read_at of {} bytes at {} is beyond the {} bytes of '{}'",
        bytes, offset, size_, path_.string());
  flush();
  for (char* next = static_cast<char*>(data); bytes > 0;) {
    const ssize_t got = retry([&] { return ::pread(descriptor_, next, bytes, static_cast<off_t>(offset)); });
    check_system(got >= 0, "read", path_);
    check(got > 0, "[file] '{}' has become shorter while it was written", temporary_.string());
    next += got;
    offset += static_cast<size_t>(got);
    bytes -= static_cast<size_t>(got);
  }
}

void AtomicFile::flush() {
  for (size_t done = 0; done < buffer_.size();) {
    const ssize_t part = retry([&] { return ::write(descriptor_, buffer_.data() + done, buffer_.size() - done); });
    check_system(part >= 0, "write", path_);
    done += static_cast<size_t>(part);
  }
  buffer_.clear();
}

void AtomicFile::seal() {
  check(!published_, "[file] '{}' is published already", path_.string());
  if (descriptor_ < 0) return;
  flush();
  check_system(retry([&] { return ::fsync(descriptor_); }) == 0, "sync", path_);
  // Some network file systems report a failed write only here.
  // (Interrupted, it is closed all the same: Linux never wants a second try.)
  check_system(::close(std::exchange(descriptor_, -1)) == 0 || errno == EINTR, "close", path_);
}

void AtomicFile::publish() {
  seal();
  rename_or_fail(temporary_, path_);
  published_ = true;
  sync_path(folder_of(path_));
}

Removed remove_abandoned(const fs::path& folder, const std::function<bool(std::string_view)>& mine) {
  std::vector<fs::path> found;
  std::error_code error;  // a folder that cannot be listed holds nothing for us
  for (fs::directory_iterator entry(folder, error), end; !error && entry != end; entry.increment(error)) {
    const auto temporary = parse_temporary(entry->path());
    const bool ours = temporary && mine(temporary->target) && !entry->is_symlink(error);
    if (ours && !is_alive(temporary->process)) found.push_back(entry->path());
  }
  Removed removed;
  for (const fs::path& path : found) {
    const Removed inside = removable(path);
    fs::remove_all(path, error);
    if (error) continue;
    removed.files += inside.files;
    removed.bytes += inside.bytes;
  }
  return removed;
}

void write_folder_atomically(const fs::path& folder, const std::function<void(const fs::path&)>& fill) {
  const fs::path path = without_trailing_slash(folder);
  check(path.has_filename(), "[file] expected the name of a folder to write, got '{}'", folder.string());
  const fs::path temporary = sibling(path, "tmp");
  std::error_code ignored;
  fs::path old;
  try {
    fs::remove_all(temporary);
    fs::create_directory(temporary);
    fill(temporary);
    for (const auto& entry : fs::recursive_directory_iterator(temporary)) {
      if (entry.is_regular_file() || entry.is_directory()) sync_path(entry.path());
    }
    sync_path(temporary);
    old = put_in_place(temporary, path);
  } catch (const std::exception& error) {
    fs::remove_all(temporary, ignored);
    if (const auto* system = dynamic_cast<const fs::filesystem_error*>(&error))
      fail_system("write folder", path, system->code().value());
    throw;
  }
  sync_path(folder_of(path));  // where this fails, the old folder stays beside the new one
  // The new folder is there for good; that the old one's remains cannot be deleted is no failure of writing.
  if (!old.empty()) fs::remove_all(old, ignored);
}

void remove_folder(const fs::path& folder) {
  const fs::path path = without_trailing_slash(folder), hidden = sibling(path, "old");
  try {
    fs::remove_all(hidden);
    rename_or_fail(path, hidden);
    fs::remove_all(hidden);
  } catch (const fs::filesystem_error& error) {
    fail_system("delete", path, error.code().value());
  }
}

MappedFile::MappedFile(const fs::path& path) : path_(path) {
  const Descriptor descriptor(path, O_RDONLY);
  struct stat status {};
  check_system(::fstat(descriptor.get(), &status) == 0, "inspect", path);
  check(S_ISREG(status.st_mode), "[file] cannot map '{}': it is not a regular file", path.string());
  const auto size = static_cast<size_t>(status.st_size);
  if (size == 0) return;
  void* begin = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor.get(), 0);
  check_system(begin != MAP_FAILED, "map", path);
  owner_ = std::shared_ptr<const void>(begin, [begin, size](const void*) { ::munmap(begin, size); });
  bytes_ = {static_cast<const std::byte*>(begin), size};
}

}  // namespace megalodon
