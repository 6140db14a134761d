// A log of long work: a full disk or one that fails for a while neither ends the work nor leaves a gap.
#pragma once

#include <deque>
#include <string>

#include "base/file.h"

namespace megalodon {

class LogFile {
 public:
  /// Opens the file for appending, or creates it. Throws Error where that cannot be.
  explicit LogFile(fs::path path);
  /// Tries once more to write what is kept.
  ~LogFile();
  LogFile(const LogFile&) = delete;
  LogFile& operator=(const LogFile&) = delete;

  /// A whole record, written at once with one write(): who reads along sees the last one torn at most. Records that the
  /// disk does not take are kept in memory, and tried again, in order, with the next one.
  void append(std::string record);
  /// Cuts the file to its first `bytes` and forgets the records that are kept.
  void cut(size_t bytes);
  /// A last try, and waiting for the disk. Throws Error where records are missing.
  void finish();

  /// The records that are not in the file, or not all of them.
  const std::deque<std::string>& unwritten() const { return unwritten_; }
  /// A line for people, once when writing begins to fail and once when nothing is missing any more; "" otherwise.
  std::string take_news();
  const fs::path& path() const { return path_; }

 private:
  void flush();
  bool write_first();

  fs::path path_;
  int descriptor_ = -1;
  std::deque<std::string> unwritten_;
  size_t torn_ = 0;        // bytes of the first of these that are in the file
  bool uncut_ = false;     // whether the file is still to be cut to size_
  size_t size_ = 0;        // after that
  std::string error_;      // the system's reason for what is missing; "": nothing is
  bool reported_ = false;  // to people
};

}  // namespace megalodon
