// The parts of a zip file, from its end: the end record, which may defer to a 64-bit end record through a locator in
// front of it; the directory it points to, one header per entry; and each entry's local header, which the data follow.
#include "io/zip.h"

#include <zlib.h>

#include <algorithm>

#include "base/check.h"
#include "io/bytes.h"

namespace megalodon::io {
namespace {

constexpr uint32_t kLocalSignature = 0x04034b50, kEntrySignature = 0x02014b50, kEndSignature = 0x06054b50;
constexpr uint32_t kEnd64Signature = 0x06064b50, kLocatorSignature = 0x07064b50;
constexpr size_t kLocalSize = 30, kEntrySize = 46, kEndSize = 22, kEnd64Size = 56, kLocatorSize = 20;
constexpr uint16_t kZip64Extra = 1, kPaddingExtra = 0x4246;  // the latter as PyTorch's own writer has it: "FB"
constexpr uint16_t kDeferred16 = 0xFFFF;                     // see the 64-bit record
constexpr uint32_t kDeferred32 = 0xFFFFFFFF;
constexpr uint16_t kEncrypted = 1, kUtf8Names = 1 << 11;

uint32_t crc_of(std::span<const std::byte> data) {
  return static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>(data.data()), data.size()));
}

template <class T>
T read_at(std::span<const std::byte> file, size_t offset) {
  return ByteReader(file, offset).read<T>();
}

struct Directory {
  uint64_t offset = 0, size = 0, entries = 0;
};

/// The end record is the last thing in the file, but for a comment that reaches exactly to the end.
size_t find_end(std::span<const std::byte> file) {
  constexpr size_t kLongestComment = 0xFFFF;
  check(file.size() >= kEndSize, "too short for a zip archive: {} bytes", file.size());
  for (size_t comment = 0; comment <= kLongestComment && comment + kEndSize <= file.size(); ++comment) {
    const size_t offset = file.size() - kEndSize - comment;
    if (read_at<uint32_t>(file, offset) == kEndSignature && read_at<uint16_t>(file, offset + 20) == comment) {
      return offset;
    }
  }
  fail("no end record of a zip archive");
}

/// Where each field of the end record that is all ones is found in the 64-bit record instead.
void read_end64(std::span<const std::byte> file, size_t end, Directory& directory) {
  const size_t locator = end - kLocatorSize;
  const auto offset = read_at<uint64_t>(file, locator + 8);
  check(offset <= locator && locator - offset >= kEnd64Size, "the 64-bit end record at {} is outside the file", offset);
  check(read_at<uint32_t>(file, offset) == kEnd64Signature, "no 64-bit end record at offset {}", offset);
  ByteReader reader(file, offset + 32);
  const auto entries = reader.read<uint64_t>(), size = reader.read<uint64_t>(), start = reader.read<uint64_t>();
  if (directory.entries == kDeferred16) directory.entries = entries;
  if (directory.size == kDeferred32) directory.size = size;
  if (directory.offset == kDeferred32) directory.offset = start;
}

Directory read_end(std::span<const std::byte> file) {
  const size_t end = find_end(file);
  ByteReader reader(file, end + 4);
  const auto disk = reader.read<uint16_t>(), directory_disk = reader.read<uint16_t>();
  reader.take(2);
  Directory directory;
  directory.entries = reader.read<uint16_t>();
  directory.size = reader.read<uint32_t>();
  directory.offset = reader.read<uint32_t>();
  check((disk == 0 || disk == kDeferred16) && (directory_disk == 0 || directory_disk == kDeferred16),
        "the zip archive is split over several files");
  if (end >= kLocatorSize && read_at<uint32_t>(file, end - kLocatorSize) == kLocatorSignature) {
    read_end64(file, end, directory);
  }
  check(directory.offset <= end && directory.size <= end - directory.offset,
        "the zip directory of {} bytes at offset {} is outside the file", directory.size, directory.offset);
  return directory;
}

/// Nothing here is ever unpacked, but a name that leaves the folder it is unpacked in is nobody's honest checkpoint.
bool is_inside(std::string_view name) {
  const std::string path = fmt::format("/{}/", name);
  return !name.starts_with('/') && path.find("/../") == std::string::npos && name.find('\\') == std::string_view::npos;
}

struct Header {
  ZipEntry entry;
  uint64_t packed_size = 0, size = 0, offset = 0;
};

/// Replaces the 32-bit fields that are all ones by those of the 64-bit extra field.
void read_extra64(std::span<const std::byte> extra, Header& header) {
  ByteReader reader(extra);
  while (reader.remaining() >= 4) {
    const auto id = reader.read<uint16_t>();
    const std::span<const std::byte> content = reader.take(reader.read<uint16_t>());
    if (id != kZip64Extra) continue;
    ByteReader fields(content);
    for (uint64_t* field : {&header.size, &header.packed_size, &header.offset}) {
      if (*field == kDeferred32) *field = fields.read<uint64_t>();
    }
    return;
  }
}

Header read_header(ByteReader& reader) {
  check(reader.read<uint32_t>() == kEntrySignature, "the zip directory has no entry where one is expected");
  reader.take(4);
  const auto flags = reader.read<uint16_t>(), method = reader.read<uint16_t>();
  reader.take(4);
  Header header;
  header.entry.crc = reader.read<uint32_t>();
  header.packed_size = reader.read<uint32_t>();
  header.size = reader.read<uint32_t>();
  const auto name_size = reader.read<uint16_t>(), extra_size = reader.read<uint16_t>(),
             comment_size = reader.read<uint16_t>();
  reader.take(8);
  header.offset = reader.read<uint32_t>();
  header.entry.name = as_text(reader.take(name_size));
  read_extra64(reader.take(extra_size), header);
  reader.take(comment_size);
  const std::string name = printable(header.entry.name);
  check(is_inside(header.entry.name), "zip entry '{}' is named as a path that leaves its folder", name);
  check((flags & kEncrypted) == 0, "zip entry '{}' is encrypted", name);
  check(method == 0 && header.packed_size == header.size,
        "zip entry '{}' is compressed (method {}, {} bytes stored for {}); torch.save stores", name, method,
        header.packed_size, header.size);
  return header;
}

/// `limit` is where the directory begins; data end before it.
void find_data(std::span<const std::byte> file, uint64_t limit, Header& header) {
  const std::string name = printable(header.entry.name);
  const auto inside = file.subspan(0, limit);
  check(header.offset <= limit && limit - header.offset >= kLocalSize,
        "zip entry '{}' at offset {} is outside the file", name, header.offset);
  check(read_at<uint32_t>(inside, header.offset) == kLocalSignature, "zip entry '{}': no local header at offset {}",
        name, header.offset);
  ByteReader reader(inside, header.offset + 26);
  const auto name_size = reader.read<uint16_t>(), extra_size = reader.read<uint16_t>();
  check(as_text(reader.take(name_size)) == header.entry.name, "zip entry '{}' has another name in its local header",
        name);
  reader.take(extra_size);
  check(header.size <= reader.remaining(), "zip entry '{}' of {} bytes at offset {} is outside the file", name,
        header.size, header.offset);
  header.entry.data = reader.take(header.size);
}

}  // namespace

ZipReader::ZipReader(std::span<const std::byte> file) {
  const Directory directory = read_end(file);
  ByteReader reader(file.subspan(directory.offset, directory.size));
  check(directory.entries <= directory.size / kEntrySize, "{} entries do not fit a zip directory of {} bytes",
        directory.entries, directory.size);
  std::vector<std::pair<uint64_t, uint64_t>> extents;
  for (uint64_t i = 0; i < directory.entries; ++i) {
    Header header = read_header(reader);
    find_data(file, directory.offset, header);
    const uint64_t end = static_cast<uint64_t>(header.entry.data.data() - file.data()) + header.size;
    extents.emplace_back(header.offset, end);
    const bool is_new = index_.emplace(header.entry.name, entries_.size()).second;
    check(is_new, "two zip entries are named '{}'", printable(header.entry.name));
    entries_.push_back(header.entry);
  }
  check(reader.remaining() == 0, "{} bytes follow the {} entries of the zip directory", reader.remaining(),
        directory.entries);
  std::sort(extents.begin(), extents.end());
  const uint64_t first = extents.empty() ? 0 : extents.front().first;
  check(first == 0, "{} bytes in front of the zip archive", first);
  const auto overlap = std::adjacent_find(extents.begin(), extents.end(),
                                          [](const auto& a, const auto& b) { return b.first < a.second; });
  if (overlap != extents.end()) fail("the zip entry at offset {} overlaps the one that follows it", overlap->first);
}

const ZipEntry* ZipReader::find(std::string_view name) const {
  const auto found = index_.find(name);
  return found == index_.end() ? nullptr : &entries_[found->second];
}

void check_crc(const ZipEntry& entry) {
  const uint32_t actual = crc_of(entry.data);
  check(actual == entry.crc, "zip entry '{}' is damaged: checksum {:08x}, expected {:08x}", printable(entry.name),
        actual, entry.crc);
}

void ZipWriter::write(std::string_view bytes) {
  sink_(bytes);
  written_ += bytes.size();
}

void ZipWriter::add(std::string_view name, std::span<const std::byte> data) {
  constexpr uint64_t kAlignment = 64;
  check(name.size() < kDeferred16, "zip entry name of {} bytes is too long", name.size());
  const uint64_t offset = written_, size = data.size();
  const bool size64 = size >= zip64_from_, offset64 = offset >= zip64_from_;
  const uint16_t version = size64 || offset64 ? 45 : 20;
  const auto append_common = [&](std::string& out, uint16_t extra_size) {  // the part both headers share
    append(out, version);
    append(out, kUtf8Names);
    append(out, uint16_t{0});   // stored
    append(out, uint16_t{0});   // midnight,
    append(out, uint16_t{33});  // 1 January 1980: equal content makes equal files
    append(out, crc_of(data));
    append(out, size64 ? kDeferred32 : static_cast<uint32_t>(size));
    append(out, size64 ? kDeferred32 : static_cast<uint32_t>(size));
    append(out, static_cast<uint16_t>(name.size()));
    append(out, extra_size);
  };

  std::string extra;
  if (size64) {
    append(extra, kZip64Extra);
    append(extra, uint16_t{16});
    append(extra, size);
    append(extra, size);
  }
  const uint64_t unpadded = offset + kLocalSize + name.size() + extra.size() + 4;
  const uint64_t padding = (kAlignment - unpadded % kAlignment) % kAlignment;
  append(extra, kPaddingExtra);
  append(extra, static_cast<uint16_t>(padding));
  extra.append(padding, 'Z');

  std::string local;
  append(local, kLocalSignature);
  append_common(local, static_cast<uint16_t>(extra.size()));
  write(local.append(name).append(extra));
  write(as_text(data));

  std::string extra64;
  if (size64) {
    append(extra64, size);
    append(extra64, size);
  }
  if (offset64) append(extra64, offset);
  append(directory_, kEntrySignature);
  append(directory_, version);  // made by
  const auto extra64_size = static_cast<uint16_t>(extra64.empty() ? 0 : extra64.size() + 4);
  append_common(directory_, extra64_size);
  directory_.append(10, '\0');  // no comment, disk 0, no attributes
  append(directory_, offset64 ? kDeferred32 : static_cast<uint32_t>(offset));
  directory_.append(name);
  if (!extra64.empty()) {
    append(directory_, kZip64Extra);
    append(directory_, static_cast<uint16_t>(extra64.size()));
    directory_.append(extra64);
  }
  ++count_;
}

void ZipWriter::finish() {
  const uint64_t offset = written_, size = directory_.size();
  write(directory_);
  std::string end;
  const bool count64 = count_ >= std::min<uint64_t>(zip64_from_, kDeferred16);
  const bool size64 = size >= zip64_from_, offset64 = offset >= zip64_from_;
  if (count64 || size64 || offset64) {
    const uint64_t end64 = written_;
    append(end, kEnd64Signature);
    append(end, uint64_t{kEnd64Size - 12});  // does not count itself and the signature
    append(end, uint16_t{45});
    append(end, uint16_t{45});
    append(end, uint64_t{0});  // disks
    for (const uint64_t value : {count_, count_, size, offset}) append(end, value);
    append(end, kLocatorSignature);
    append(end, uint32_t{0});
    append(end, end64);
    append(end, uint32_t{1});
  }
  append(end, kEndSignature);
  append(end, uint32_t{0});  // disks
  for (int i = 0; i < 2; ++i) append(end, count64 ? kDeferred16 : static_cast<uint16_t>(count_));
  append(end, size64 ? kDeferred32 : static_cast<uint32_t>(size));
  append(end, offset64 ? kDeferred32 : static_cast<uint32_t>(offset));
  append(end, uint16_t{0});  // no comment
  write(end);
}

}  // namespace megalodon::io
