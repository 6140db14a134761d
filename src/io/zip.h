// Zip archives of stored (never compressed) entries, as torch.save writes them, with the 64-bit extensions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace megalodon::io {

struct ZipEntry {
  std::string_view name;
  std::span<const std::byte> data;
  uint32_t crc = 0;
};

/// The entries of an archive in memory. Entries that are compressed, encrypted, outside the file, overlapping, named
/// twice or named as a path that leaves its folder are refused, so whatever is read is a part of the file and counts
/// once; and so is an archive with anything in front, which could be a file of another kind at the same time.
class ZipReader {
 public:
  explicit ZipReader(std::span<const std::byte> file);
  /// In the order of the archive's directory.
  const std::vector<ZipEntry>& entries() const { return entries_; }
  /// Null where there is none.
  const ZipEntry* find(std::string_view name) const;

 private:
  std::vector<ZipEntry> entries_;
  std::map<std::string_view, size_t> index_;
};

/// Throws unless the data has the checksum that the archive states.
void check_crc(const ZipEntry& entry);

class ZipWriter {
 public:
  /// Takes the archive's bytes as they come.
  using Sink = std::function<void(std::string_view)>;

  /// Numbers from `zip64_from` on are written in the 64-bit form; only tests set it.
  explicit ZipWriter(Sink sink, uint64_t zip64_from = 0xFFFFFFFF) : sink_(std::move(sink)), zip64_from_(zip64_from) {}
  /// The data starts at a multiple of 64 bytes, so that mapped tensors are aligned.
  void add(std::string_view name, std::span<const std::byte> data);
  /// Writes the directory.
  void finish();

 private:
  void write(std::string_view bytes);

  Sink sink_;
  uint64_t zip64_from_;
  uint64_t written_ = 0;
  std::string directory_;
  uint64_t count_ = 0;
};

}  // namespace megalodon::io
