// Tables in text files, a row at a time: columns apart by tabs, or by commas in files named .csv, whose fields may
// stand in quotes (RFC 4180: a quote within is doubled, and a field in quotes may hold line ends).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/record_reader.h"

namespace megalodon::data {

/// A file read from front to end, decompressed on the way. Lines may end in CR LF; a byte order mark is passed over.
class TableReader {
 public:
  /// With `quotes` fields of any file may stand in quotes.
  TableReader(const fs::path& path, bool quotes);
  /// The fields of the next row, until the next call; null at the end. Throws Error, naming file and line, for a row
  /// with another number of fields than the first, quotes that do not close, and a line of more than 64 MiB.
  const std::vector<std::string>* next();
  /// "'file.tsv', line 12": where the row begins.
  std::string where() const;
  /// Bytes of the file that are used up.
  uint64_t position() const { return position_; }

 private:
  std::optional<std::string_view> next_line();
  void split_plain(std::string_view line);
  void split_quoted(std::string_view line);

  RecordReader reader_;
  std::string path_;
  char separator_;
  bool quotes_;
  std::optional<Block> block_;
  size_t next_record_ = 0;
  uint64_t position_ = 0;
  int64_t line_ = 0, first_line_ = 0;  // the last one read, the row's first
  std::vector<std::string> fields_;
  size_t columns_ = 0;  // of the first row
};

}  // namespace megalodon::data
