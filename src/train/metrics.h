// metrics.jsonl: one JSON object per line, for steps and for evaluations, each with its "step". After any number of
// interruptions the file is that of one uninterrupted run: a checkpoint remembers how many lines came before it, and
// holds those of them that the disk had not taken yet.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/log_file.h"

namespace megalodon {

class MetricsLog {
 public:
  /// What a checkpoint knows of the file.
  struct Position {
    int64_t step = 0;                    // of the checkpoint
    int64_t records = 0;                 // lines before it
    std::vector<std::string> unwritten;  // the last of these, where the file lacked them
  };

  /// Opens for appending at a position: what comes behind is dropped, like a line that a crash cut short.
  MetricsLog(const fs::path& path, const Position& position);
  /// Back to an earlier one.
  void rewind(const Position& position);
  void append(const nlohmann::ordered_json& record);

  int64_t records() const { return records_; }
  LogFile& file() { return file_; }

 private:
  void add(std::string line);

  LogFile file_;
  int64_t records_ = 0;
};

}  // namespace megalodon
