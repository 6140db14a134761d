// Cuts the text of many files into records, documents or lines, and hands them out in blocks of about a megabyte: the
// first, serial stage of preparing a corpus.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/byte_stream.h"
#include "data/input_files.h"

namespace megalodon::data {

/// A document or line, or a piece of a document.
struct Record {
  size_t begin = 0, size = 0;  // in Block::text
  int64_t number = 0;          // in its file, from 1
  bool first = true, last = true;
  bool too_long = false;  // longer than Options::longest: only its beginning is here
};

struct Block {
  std::shared_ptr<const std::string> source;  // the file's name for messages; in an archive archive:name
  Layout layout = Layout::kText;              // kText or kJsonLines
  std::string text;
  std::vector<Record> records;
  uint64_t position = 0;  // bytes of the inputs that are used up
};

class RecordReader {
 public:
  struct Options {
    std::string separator;  // between the documents of a text file; empty: one document a file
    size_t longest = 0;     // bytes of a line, and of a document where they are not handed out in pieces
    size_t piece = 0;       // documents are cut every so many bytes; 0: never
    // How much is read and handed out at a time (tests lower it: what comes out must not depend on it).
    size_t read_bytes = size_t{256} << 10, block_bytes = size_t{1} << 20;
  };

  RecordReader(std::vector<InputFile> files, Options options);
  /// None at the end. Holds one block, and beyond it at most one record of `longest` bytes. Throws Error for a file
  /// that cannot be read or holds another kind of data than its name says (told by its first bytes).
  std::optional<Block> next();
  uint64_t total_bytes() const { return total_; }
  /// Files of archives that were left out, being neither text nor JSON lines by their name.
  int64_t skipped_entries() const { return skipped_entries_; }

 private:
  bool open_source();
  bool open_entry();
  void close_source();
  void begin_source(std::string name, Layout layout);
  bool fill(Block& block);
  size_t read(char* out, size_t bytes);
  void refuse_other_kinds(std::string_view head) const;
  void cut(Block& block, bool at_end);
  void cut_record(Block& block, size_t end);
  void cut_pieces(Block& block, size_t end, size_t rest);
  void shorten(Block& block);
  std::string_view terminator() const {
    return layout_ == Layout::kJsonLines ? "\n" : std::string_view(options_.separator);
  }

  std::vector<InputFile> files_;
  Options options_;
  size_t next_file_ = 0;
  uint64_t total_ = 0, finished_ = 0;  // bytes of all files, of those that are done with
  int64_t skipped_entries_ = 0;

  std::unique_ptr<ByteStream> stream_;  // the open file, or
  std::unique_ptr<TarReader> tar_;      // the open archive, with an open entry while there is a source_
  std::shared_ptr<const std::string> source_;
  Layout layout_ = Layout::kText;
  bool at_start_ = false;  // of the source

  std::string tail_;        // of the last block: the beginning of a record
  size_t begin_ = 0;        // where the open record, or its next piece, begins in the block's text
  size_t scan_ = 0;         // where to look for its end
  int64_t number_ = 0;      // records of the source that are complete
  bool continued_ = false;  // pieces of the open record were handed out
  bool shortened_ = false;  // the open record is too long, its middle was dropped
};

}  // namespace megalodon::data
