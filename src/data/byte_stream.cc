#include "data/byte_stream.h"

#include <archive.h>
#include <archive_entry.h>
#include <zlib.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <limits>
#include <vector>

#include "base/check.h"

namespace megalodon::data {
namespace {

constexpr size_t kBufferBytes = size_t{256} << 10;
constexpr uint64_t kMostAnyway = uint64_t{256} << 20, kMostRatio = 200;

/// How much a file of this size may unpack to.
uint64_t most_from(const fs::path& path) {
  return kMostAnyway + kMostRatio * fs::file_size(path);
}

void check_most(uint64_t delivered, uint64_t most, const fs::path& path) {
  check(
      delivered <= most,
      "[data] '{}' unpacks to more than {} bytes, 256 MiB and 200 times its size: no text compresses so well. If it is "
      "in order, unpack it by hand",
      path.string(), most);
}

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(const fs::path& path)
      : ByteStream(path, std::numeric_limits<uint64_t>::max()), file_(std::fopen(path.c_str(), "rb"), &std::fclose) {
    check(file_ != nullptr, "[data] cannot open '{}': {}", path.string(), std::strerror(errno));
    std::setvbuf(file_.get(), nullptr, _IONBF, 0);  // what is read goes where it is wanted
  }
  uint64_t position() const override { return position_; }

 private:
  size_t read_some(char* out, size_t bytes) override {
    const size_t got = std::fread(out, 1, bytes, file_.get());
    check(got > 0 || std::ferror(file_.get()) == 0, "[data] cannot read '{}': {}", path().string(),
          std::strerror(errno));
    position_ += got;
    return got;
  }

  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  uint64_t position_ = 0;
};

/// zlib, not libarchive, which (3.6) does not compare gzip's checksum.
class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(const fs::path& path)
      : ByteStream(path, most_from(path)), file_(gzopen(path.c_str(), "rb"), &gzclose) {
    check(file_ != nullptr, "[data] cannot open '{}': {}", path.string(), std::strerror(errno));
    gzbuffer(file_.get(), kBufferBytes);
    check(gzdirect(file_.get()) == 0, "[data] '{}' is not gzip data, as its name says; rename it to what it is",
          path.string());
  }
  uint64_t position() const override { return static_cast<uint64_t>(std::max<z_off_t>(gzoffset(file_.get()), 0)); }

 private:
  size_t read_some(char* out, size_t bytes) override {
    const int got = gzread(file_.get(), out, static_cast<unsigned>(std::min(bytes, size_t{1} << 30)));
    // A file cut short ends like a whole one but leaves an error behind.
    int code = Z_OK;
    const char* reason = gzerror(file_.get(), &code);
    check(got > 0 || (got == 0 && code == Z_OK), "[data] cannot decompress '{}': {}", path().string(), reason);
    return static_cast<size_t>(got);
  }

  std::unique_ptr<gzFile_s, int (*)(gzFile)> file_;
};

using Archive = std::unique_ptr<archive, int (*)(archive*)>;

Archive new_archive() {
  Archive handle(archive_read_new(), &archive_read_free);
  check(handle != nullptr, "[data] out of memory");
  return handle;
}

std::string reason_of(archive* handle) {
  const char* text = archive_error_string(handle);
  return text == nullptr ? "damaged data" : text;
}

/// zstd, xz, bzip2 and lz4, by libarchive.
class FilteredStream final : public ByteStream {
 public:
  FilteredStream(const fs::path& path, Compression compression)
      : ByteStream(path, most_from(path)), archive_(new_archive()) {
    const PlainStream readable(path);  // for the system's reason where it is not
    archive* handle = archive_.get();
    archive_read_support_format_raw(handle);
    archive_read_support_format_empty(handle);
    const int filter = enable(handle, compression);
    check(archive_read_open_filename(handle, path.c_str(), kBufferBytes) == ARCHIVE_OK,
          "[data] cannot decompress '{}': {}", path.string(), reason_of(handle));
    archive_entry* entry = nullptr;
    const int status = archive_read_next_header(handle, &entry);
    check(archive_filter_code(handle, 0) == filter,
          "[data] '{}' is not {} data, as its name says; rename it to what it is", path.string(),
          suffix_of(compression) + 1);
    check(status >= ARCHIVE_WARN, "[data] cannot decompress '{}': {}", path.string(), reason_of(handle));
    ended_ = status == ARCHIVE_EOF;
  }
  uint64_t position() const override {
    return static_cast<uint64_t>(std::max<int64_t>(archive_filter_bytes(archive_.get(), -1), 0));
  }

 private:
  static int enable(archive* handle, Compression compression) {
    switch (compression) {
      case Compression::kZstd:
        archive_read_support_filter_zstd(handle);
        return ARCHIVE_FILTER_ZSTD;
      case Compression::kXz:
        archive_read_support_filter_xz(handle);
        return ARCHIVE_FILTER_XZ;
      case Compression::kBzip2:
        archive_read_support_filter_bzip2(handle);
        return ARCHIVE_FILTER_BZIP2;
      default:
        archive_read_support_filter_lz4(handle);
        return ARCHIVE_FILTER_LZ4;
    }
  }

  size_t read_some(char* out, size_t bytes) override {
    if (ended_) return 0;
    const la_ssize_t got = archive_read_data(archive_.get(), out, bytes);
    check(got >= 0, "[data] cannot decompress '{}': {}", path().string(), reason_of(archive_.get()));
    return static_cast<size_t>(got);
  }

  Archive archive_;
  bool ended_ = false;
};

}  // namespace

size_t ByteStream::read(char* out, size_t bytes) {
  const size_t got = read_some(out, bytes);
  delivered_ += got;
  check_most(delivered_, most_, path_);
  return got;
}

std::unique_ptr<ByteStream> open_stream(const fs::path& path, Compression compression) {
  switch (compression) {
    case Compression::kNone:
      return std::make_unique<PlainStream>(path);
    case Compression::kGzip:
      return std::make_unique<GzipStream>(path);
    default:
      return std::make_unique<FilteredStream>(path, compression);
  }
}

/// What libarchive's callback reads from. Exceptions must not pass through C: they wait here.
struct TarReader::Source {
  ByteStream* stream;
  std::vector<char> buffer;
  std::exception_ptr error;

  static la_ssize_t read(archive* handle, void* self, const void** data) {
    auto& source = *static_cast<Source*>(self);
    *data = source.buffer.data();
    try {
      return static_cast<la_ssize_t>(source.stream->read(source.buffer.data(), source.buffer.size()));
    } catch (...) {
      source.error = std::current_exception();
      archive_set_error(handle, EIO, "unreadable");
      return ARCHIVE_FATAL;
    }
  }
};

TarReader::TarReader(std::unique_ptr<ByteStream> stream)
    : stream_(std::move(stream)),
      source_(std::make_unique<Source>(Source{stream_.get(), std::vector<char>(kBufferBytes), nullptr})),
      archive_(new_archive()),
      most_(most_from(stream_->path())) {
  archive_read_support_format_tar(archive_.get());
  // Whatever follows the end mark is a text or an error, not left out.
  archive_read_set_option(archive_.get(), "tar", "read_concatenated_archives", "1");
  check_archive(archive_read_open(archive_.get(), source_.get(), nullptr, &Source::read, nullptr) == ARCHIVE_OK);
}

TarReader::~TarReader() = default;

void TarReader::check_archive(bool ok) const {
  if (source_->error) std::rethrow_exception(source_->error);
  check(ok, "[data] '{}' is not a tar archive in order: {}", stream_->path().string(), reason_of(archive_.get()));
}

bool TarReader::next() {
  archive_entry* entry = nullptr;
  do {
    const int status = archive_read_next_header(archive_.get(), &entry);
    if (status == ARCHIVE_EOF) {
      check_archive(true);
      // Checksums come at the very end of compressed data.
      while (stream_->read(source_->buffer.data(), source_->buffer.size()) > 0) continue;
      return false;
    }
    check_archive(status >= ARCHIVE_WARN);  // a warning is about names that the locale cannot express
  } while (archive_entry_filetype(entry) != AE_IFREG || archive_entry_hardlink(entry) != nullptr);
  const char* name = archive_entry_pathname_utf8(entry);
  if (name == nullptr) name = archive_entry_pathname(entry);
  name_ = name == nullptr ? "" : name;
  return true;
}

size_t TarReader::read(char* out, size_t bytes) {
  const la_ssize_t got = archive_read_data(archive_.get(), out, bytes);
  check_archive(got >= 0);
  delivered_ += static_cast<uint64_t>(got);  // a sparse file may hold more than its archive
  check_most(delivered_, most_, stream_->path());
  return static_cast<size_t>(got);
}

}  // namespace megalodon::data
