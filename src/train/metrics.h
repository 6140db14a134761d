// metrics.jsonl: one JSON object per line, for steps and for evaluations, each with its "step". After any number of
// interruptions the file is that of one uninterrupted run: a checkpoint remembers how many lines came before it.
#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "base/file.h"

namespace megalodon {

class MetricsLog {
 public:
  /// Opens for appending behind the first `records` lines that belong to steps up to `last_step`; what comes after them
  /// is dropped, like a line that a crash cut short.
  MetricsLog(const fs::path& path, int64_t last_step, int64_t records);
  int64_t records() const { return records_; }
  void append(const nlohmann::ordered_json& record);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  fs::path path_;
  int64_t records_ = 0;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace megalodon
