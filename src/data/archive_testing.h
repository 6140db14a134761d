// Compressed files and archives for the tests of this folder.
#pragma once

#include <archive.h>
#include <archive_entry.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/input_files.h"
#include "data/testing.h"

namespace megalodon::data {

struct TarEntry {
  std::string name, content;
  int type = AE_IFREG;  // or AE_IFDIR, AE_IFLNK (to `content`), AE_IFIFO
};

inline void add_filter(archive* out, Compression compression) {
  switch (compression) {
    case Compression::kNone:
      break;
    case Compression::kGzip:
      ASSERT_EQ(archive_write_add_filter_gzip(out), ARCHIVE_OK);
      break;
    case Compression::kZstd:
      ASSERT_EQ(archive_write_add_filter_zstd(out), ARCHIVE_OK);
      break;
    case Compression::kXz:
      ASSERT_EQ(archive_write_add_filter_xz(out), ARCHIVE_OK);
      ASSERT_EQ(archive_write_set_filter_option(out, "xz", "compression-level", "0"), ARCHIVE_OK);
      break;
    case Compression::kBzip2:
      ASSERT_EQ(archive_write_add_filter_bzip2(out), ARCHIVE_OK);
      break;
    case Compression::kLz4:
      ASSERT_EQ(archive_write_add_filter_lz4(out), ARCHIVE_OK);
      break;
  }
}

/// With one entry "data" and no format of an archive around it, a compressed file.
inline void write_archive(const fs::path& path, const std::vector<TarEntry>& entries, Compression compression,
                          bool tar) {
  fs::create_directories(path.parent_path());
  const std::unique_ptr<archive, int (*)(archive*)> out(archive_write_new(), &archive_write_free);
  ASSERT_EQ(tar ? archive_write_set_format_gnutar(out.get()) : archive_write_set_format_raw(out.get()), ARCHIVE_OK);
  add_filter(out.get(), compression);
  archive_write_set_bytes_in_last_block(out.get(), 1);
  ASSERT_EQ(archive_write_open_filename(out.get(), path.c_str()), ARCHIVE_OK) << path;
  for (const TarEntry& entry : entries) {
    const std::unique_ptr<archive_entry, void (*)(archive_entry*)> header(archive_entry_new(), &archive_entry_free);
    archive_entry_set_pathname(header.get(), entry.name.c_str());
    archive_entry_set_filetype(header.get(), static_cast<unsigned>(entry.type));
    archive_entry_set_perm(header.get(), 0644);
    const bool file = entry.type == AE_IFREG;
    if (file) archive_entry_set_size(header.get(), static_cast<la_int64_t>(entry.content.size()));
    if (entry.type == AE_IFLNK) archive_entry_set_symlink(header.get(), entry.content.c_str());
    ASSERT_GE(archive_write_header(out.get(), header.get()), ARCHIVE_WARN) << archive_error_string(out.get());
    if (file) {
      ASSERT_EQ(archive_write_data(out.get(), entry.content.data(), entry.content.size()),
                static_cast<la_ssize_t>(entry.content.size()));
    }
  }
  ASSERT_EQ(archive_write_close(out.get()), ARCHIVE_OK);
}

/// Packed as the name says.
inline fs::path put_packed(const fs::path& path, std::string_view content) {
  write_archive(path, {{"data", std::string(content)}}, format_of(path.filename().string()).compression, false);
  return path;
}

inline fs::path put_tar(const fs::path& path, const std::vector<TarEntry>& entries) {
  write_archive(path, entries, format_of(path.filename().string()).compression, true);
  return path;
}

}  // namespace megalodon::data
