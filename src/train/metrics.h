// metrics.jsonl: one JSON object per line, for steps and for evaluations, each with its "step". After any number of
// interruptions the file is that of one uninterrupted run.
#pragma once

#include <cstdio>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "base/file.h"

namespace megalodon {

class MetricsLog {
 public:
  /// Opens for appending, after dropping the lines of steps beyond `last_step` (and a line that a crash cut short).
  MetricsLog(const fs::path& path, int64_t last_step);
  void append(const nlohmann::ordered_json& record);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  fs::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace megalodon
