#include "data/record_reader.h"

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

constexpr size_t kSampleBytes = 64;  // what is kept of a record that is too long
constexpr size_t kNameBytes = 200;

struct Magic {
  size_t offset;
  std::string_view bytes;
  const char* what;
  const char* remedy;
};
using namespace std::string_view_literals;
constexpr Magic kMagics[] = {
    {0, "\x1F\x8B"sv, "gzip data", "give it a name that ends in .gz"},
    {0, "\x28\xB5\x2F\xFD"sv, "zstd data", "give it a name that ends in .zst"},
    {0, "\xFD\x37zXZ\0"sv, "xz data", "give it a name that ends in .xz"},
    {0, "\x04\x22\x4D\x18"sv, "lz4 data", "give it a name that ends in .lz4"},
    {0, "BZh91AY&SY"sv, "bzip2 data", "give it a name that ends in .bz2"},
    {257, "ustar"sv, "a tar archive", "give it a name that ends in .tar (and .gz or the like if it is compressed)"},
    {0, "PK\x03\x04"sv, "a zip archive", "unpack it"},
    {0, "7z\xBC\xAF\x27\x1C"sv, "a 7z archive", "unpack it"},
    {0, "PAR1"sv, "a Parquet file", "convert it to JSON lines"},
    {0, "MMIDIDX\0"sv, "the index of token data", "it needs no preparing"},
};
constexpr size_t kHeadBytes = 512;

}  // namespace

RecordReader::RecordReader(std::vector<InputFile> files, Options options)
    : files_(std::move(files)), options_(std::move(options)) {
  for (const InputFile& file : files_) total_ += file.bytes;
}

void RecordReader::begin_source(std::string name, Layout layout) {
  source_ = std::make_shared<const std::string>(std::move(name));
  layout_ = layout;
  at_start_ = true;
  number_ = 0;
  continued_ = shortened_ = false;
}

/// The next file, or entry of the open archive.
bool RecordReader::open_source() {
  while (true) {
    if (tar_ != nullptr && open_entry()) return true;
    if (next_file_ == files_.size()) return false;
    const InputFile& file = files_[next_file_++];
    stream_ = open_stream(file.path, file.format.compression);
    if (file.format.layout == Layout::kTar) {
      tar_ = std::make_unique<TarReader>(std::move(stream_));
    } else {
      begin_source(file.path.string(), file.format.layout);
      return true;
    }
  }
}

bool RecordReader::open_entry() {
  while (tar_->next()) {
    const FileFormat format = format_of(tar_->name());
    if (format.searched && format.layout != Layout::kTar && format.compression == Compression::kNone) {
      begin_source(files_[next_file_ - 1].path.string() + ":" + printable(tar_->name(), kNameBytes), format.layout);
      return true;
    }
    ++skipped_entries_;
  }
  tar_.reset();
  finished_ += files_[next_file_ - 1].bytes;
  return false;
}

void RecordReader::close_source() {
  source_ = nullptr;
  if (tar_ != nullptr) return;
  stream_.reset();
  finished_ += files_[next_file_ - 1].bytes;
}

size_t RecordReader::read(char* out, size_t bytes) {
  return tar_ != nullptr ? tar_->read(out, bytes) : stream_->read(out, bytes);
}

void RecordReader::refuse_other_kinds(std::string_view head) const {
  for (const Magic& magic : kMagics) {
    check(head.size() < magic.offset || !head.substr(magic.offset).starts_with(magic.bytes),
          "[data] '{}' should hold {} by its name but holds {}; {}", *source_,
          layout_ == Layout::kJsonLines ? "JSON lines" : "text", magic.what, magic.remedy);
  }
}

/// Reads on into the block; false at the end of the source.
bool RecordReader::fill(Block& block) {
  size_t used = block.text.size();
  const size_t before = used, wanted = before + options_.read_bytes;
  block.text.resize(wanted);
  // Streams may give little at a time: a head that is read for its magic must be whole.
  while (used < wanted) {
    const size_t got = read(block.text.data() + used, wanted - used);
    if (got == 0) break;
    used += got;
  }
  block.text.resize(used);
  if (at_start_) refuse_other_kinds(std::string_view(block.text).substr(before, kHeadBytes));
  at_start_ = false;
  return used == wanted;
}

std::optional<Block> RecordReader::next() {
  Block block;
  block.text = std::move(tail_);
  tail_.clear();
  begin_ = 0;
  bool end_of_source = false;
  while (block.records.empty() || (!end_of_source && begin_ < options_.block_bytes)) {
    if (end_of_source) close_source();
    if (source_ == nullptr) {
      if (!open_source()) return std::nullopt;
      block.text.clear();
      begin_ = scan_ = 0;
    }
    end_of_source = !fill(block);
    cut(block, end_of_source);
  }
  block.source = source_;
  block.layout = layout_;
  tail_ = block.text.substr(begin_);
  block.text.resize(begin_);
  scan_ -= begin_;
  if (end_of_source) close_source();
  block.position = finished_;
  if (tar_ != nullptr) block.position += tar_->position();
  if (stream_ != nullptr) block.position += stream_->position();
  return block;
}

/// Cuts off every record that is complete.
void RecordReader::cut(Block& block, bool at_end) {
  const std::string_view end_mark = terminator();
  size_t found = std::string_view::npos;
  while (!end_mark.empty() && (found = block.text.find(end_mark, scan_)) != std::string::npos) {
    cut_record(block, found);
    begin_ = scan_ = found + end_mark.size();
  }
  const size_t overlap = end_mark.empty() ? 0 : end_mark.size() - 1;
  scan_ = std::max(scan_, block.text.size() - std::min(block.text.size(), overlap));
  if (at_end) {
    // What follows the last line end is no line.
    if (begin_ < block.text.size() || shortened_) cut_record(block, block.text.size());
    begin_ = scan_ = block.text.size();
  } else if (options_.piece > 0 && layout_ == Layout::kText) {
    // One byte more, and no end mark may begin at the edge: pieces are the same wherever the reading stopped.
    cut_pieces(block, block.text.size(), end_mark.size() + 1);
  } else if (shortened_ || block.text.size() - begin_ > options_.longest) {
    shorten(block);
  }
}

/// Cuts pieces off the open record while more than `rest` bytes remain before `end`.
void RecordReader::cut_pieces(Block& block, size_t end, size_t rest) {
  while (end - begin_ >= options_.piece + rest) {
    block.records.push_back({begin_, options_.piece, number_ + 1, !continued_, false, false});
    begin_ += options_.piece;
    continued_ = true;
  }
}

void RecordReader::cut_record(Block& block, size_t end) {
  const bool pieces = options_.piece > 0 && layout_ == Layout::kText;
  if (pieces) cut_pieces(block, end, 1);
  const bool too_long = !pieces && (shortened_ || end - begin_ > options_.longest);
  block.records.push_back({begin_, end - begin_, ++number_, !continued_, true, too_long});
  continued_ = shortened_ = false;
}

/// Drops the middle of a record that is too long: its beginning stays, and so much of its end as may belong to a mark.
void RecordReader::shorten(Block& block) {
  const size_t kept = std::min(begin_ + kSampleBytes, scan_);
  block.text.erase(kept, scan_ - kept);
  scan_ = kept;
  shortened_ = true;
}

}  // namespace megalodon::data
