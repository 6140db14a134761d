#include "train/metrics.h"

#include <nlohmann/json.hpp>

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

MetricsLog::MetricsLog(const fs::path& path, const Position& position) : file_(path) {
  rewind(position);
}

void MetricsLog::rewind(const Position& position) {
  const std::string text = read_file(file_.path());
  const auto [kept, count] = kept_part(text, position.step, position.records);
  file_.cut(kept.size());
  records_ = count;
  int64_t number = position.records - static_cast<int64_t>(position.unwritten.size());
  for (const std::string& line : position.unwritten)
    if (number++ == records_) add(line);
}

void MetricsLog::append(const Json& record) {
  add(record.dump() + "\n");
}

void MetricsLog::add(std::string line) {
  file_.append(std::move(line));
  ++records_;
}

}  // namespace megalodon
