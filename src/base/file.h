// Files that are never half-written, and files read without copying.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace megalodon {

namespace fs = std::filesystem;

/// The whole file. Throws Error with the path and the system's reason.
std::string read_file(const fs::path& path);

/// Calls use(bytes) with the file's content, piece by piece. For one pass over a large file: copying it through a small
/// buffer takes less time than mapping its pages.
void read_pieces(const fs::path& path, const std::function<void(std::span<const std::byte>)>& use);

/// Returns when what was written to a file, or to the list of a folder, is on the disk.
void sync_path(const fs::path& path);

/// Writes a sibling temporary file, syncs it, renames it over `path` and syncs the folder: after a crash at any byte
/// `path` holds the old content or the new.
void write_file_atomically(const fs::path& path, std::string_view content);

/// The same for content written in pieces: nothing appears at `path` before publish(); without it the destructor
/// removes the temporary file.
class AtomicFile {
 public:
  explicit AtomicFile(fs::path path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  /// Overwrites bytes already written (for headers that count what follows).
  void write_at(size_t offset, const void* data, size_t bytes);
  /// Reads back bytes already written.
  void read_at(size_t offset, void* data, size_t bytes);
  size_t size() const { return size_; }
  /// Brings everything written to the disk and ends the writing. What is left for publish() is a rename, so that
  /// several sealed files appear together or, where one cannot be written, not at all.
  void seal();
  void publish();

 private:
  void flush();

  fs::path path_, temporary_;
  int descriptor_ = -1;
  size_t size_ = 0;
  std::string buffer_;
  bool published_ = false;
};

/// Files that were removed.
struct Removed {
  int64_t files = 0;
  uint64_t bytes = 0;
};

/// Removes the temporary files and folders in `folder` that AtomicFile and write_folder_atomically() left because their
/// process was killed, of those targets whose names `mine` accepts. A process that lives keeps its own. (One on another
/// machine that shares the folder does not show here: it would fail to publish.) What cannot be removed stays.
Removed remove_abandoned(const fs::path& folder, const std::function<bool(std::string_view name)>& mine);

/// Builds a folder of files and publishes it whole: `fill` writes into a temporary sibling, which is synced and renamed
/// to `path` (replacing a folder that is there).
void write_folder_atomically(const fs::path& path, const std::function<void(const fs::path&)>& fill);

/// Deletes a folder so that nobody ever sees a part of it: renamed to a hidden sibling first, which a crash may leave.
void remove_folder(const fs::path& path);

/// A read-only memory mapping of a file; an empty file maps to an empty span.
class MappedFile {
 public:
  explicit MappedFile(const fs::path& path);
  std::span<const std::byte> bytes() const { return bytes_; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  std::shared_ptr<const void> owner_;  // unmaps; copies of a MappedFile share one mapping
  std::span<const std::byte> bytes_;
};

}  // namespace megalodon
