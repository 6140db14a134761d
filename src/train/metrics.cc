#include "train/metrics.h"

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/check.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

/// The leading lines, at most `records`, that are whole and belong to steps up to `last_step`, and their number.
std::pair<std::string_view, int64_t> kept_part(std::string_view text, int64_t last_step, int64_t records) {
  size_t end = 0;
  for (int64_t kept = 0;; ++kept) {
    if (kept == records) return {text.substr(0, end), kept};
    const size_t newline = text.find('\n', end);
    if (newline == std::string_view::npos) return {text.substr(0, end), kept};
    const Json record = Json::parse(text.substr(end, newline - end), nullptr, /*allow_exceptions=*/false);
    const auto step = record.is_object() ? record.find("step") : record.end();
    if (step == record.end() || !step->is_number_integer() || step->get<int64_t>() > last_step)
      return {text.substr(0, end), kept};
    end = newline + 1;
  }
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& path, int64_t last_step, int64_t records) : path_(path) {
  if (fs::exists(path)) {
    const std::string text = read_file(path);
    const auto [kept, count] = kept_part(text, last_step, records);
    records_ = count;
    if (kept.size() != text.size()) write_file_atomically(path, kept);
  }
  file_.reset(std::fopen(path.c_str(), "ae"));
  check(file_ != nullptr, "[metrics] cannot open '{}': {}", path.string(), std::strerror(errno));
}

void MetricsLog::append(const Json& record) {
  const std::string line = record.dump() + "\n";
  const bool written =
      std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size() && std::fflush(file_.get()) == 0;
  check(written, "[metrics] cannot write to '{}': {}", path_.string(), std::strerror(errno));
  ++records_;
}

}  // namespace megalodon
