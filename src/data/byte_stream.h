// Files read from front to end, decompressed on the way, and the files in a tar archive.
//
// Nothing that comes out is larger than 256 MiB plus 200 times the file: text compresses by 3 to 20, a bomb by 1,000
// and more. Decompression takes 128 MiB at most for zstd (a larger window is refused) and 1 GiB for xz.
#pragma once

#include <memory>
#include <string>

#include "data/input_files.h"

struct archive;

namespace megalodon::data {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  ByteStream(const ByteStream&) = delete;
  ByteStream& operator=(const ByteStream&) = delete;

  /// Returns 0 only at the end. Throws Error, with the path, for data that is damaged, cut short, not of the kind that
  /// the name promises, or that unpacks to more than a text can.
  size_t read(char* out, size_t bytes);
  /// Bytes of the file that are used up.
  virtual uint64_t position() const = 0;
  const fs::path& path() const { return path_; }

 protected:
  explicit ByteStream(const fs::path& path, uint64_t most) : path_(path), most_(most) {}
  virtual size_t read_some(char* out, size_t bytes) = 0;

 private:
  fs::path path_;
  uint64_t most_, delivered_ = 0;
};

std::unique_ptr<ByteStream> open_stream(const fs::path& path, Compression compression);

/// The regular files of a tar archive, one after the other. Their names are for messages and for telling what they are;
/// nothing is ever opened or written by such a name.
class TarReader {
 public:
  explicit TarReader(std::unique_ptr<ByteStream> stream);
  ~TarReader();
  TarReader(const TarReader&) = delete;
  TarReader& operator=(const TarReader&) = delete;

  /// Moves on to the next file; false at the end.
  bool next();
  /// As the archive has it; "" where it has none.
  const std::string& name() const { return name_; }
  size_t read(char* out, size_t bytes);
  uint64_t position() const { return stream_->position(); }

 private:
  struct Source;
  void check_archive(bool ok) const;

  std::unique_ptr<ByteStream> stream_;
  std::unique_ptr<Source> source_;
  std::unique_ptr<archive, int (*)(archive*)> archive_;
  std::string name_;
  uint64_t most_, delivered_ = 0;
};

}  // namespace megalodon::data
