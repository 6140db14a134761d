#include "report/run_record.h"

#include <algorithm>

#include "base/check.h"
#include "base/json.h"
#include "base/timing.h"

namespace megalodon::report {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::string_view kEvaluated = "eval_loss/";

/// Nothing where it was not finite, or is not there.
std::optional<double> number_at(const Json& record, const std::string& key) {
  const auto found = record.find(key);
  if (found == record.end() || !found->is_number()) return {};
  return found->get<double>();
}

void add_step(const Json& record, const std::string& source, RunRecord& run) {
  run.steps = count_at(record, "step", source);
  run.tokens = count_at(record, "tokens", source);
  run.seconds += number_at(record, "step_s").value_or(0);
  run.peak_mib = std::max(run.peak_mib, number_at(record, "peak_rss_mb").value_or(0));
  run.peak_gpu_mib = std::max(run.peak_gpu_mib, number_at(record, "peak_gpu_mb").value_or(0));
  if (const auto loss = number_at(record, "loss"))
    run.training.push_back({run.steps, run.tokens, run.seconds, *loss, {}});
}

HeldOutSet& set_called(const std::string& name, RunRecord& run) {
  for (HeldOutSet& set : run.held_out)
    if (set.name == name) return set;
  return run.held_out.emplace_back(HeldOutSet{name, {}, false});
}

/// Belongs to the step before it.
void add_evaluation(const Json& record, RunRecord& run) {
  for (const auto& [key, loss] : record.items()) {
    if (!key.starts_with(kEvaluated)) continue;
    const std::string name = key.substr(kEvaluated.size());
    HeldOutSet& set = set_called(name, run);
    set.diverged = !loss.is_number();
    if (!set.diverged)
      set.list.push_back(
          {run.steps, run.tokens, run.seconds, loss.get<double>(), number_at(record, "bits_per_byte/" + name)});
  }
}

template <class Value>
Curve curve_of(const std::vector<Measurement>& list, Axis axis, Value Measurement::*value) {
  Curve curve;
  for (const Measurement& one : list)
    if (const std::optional<double> y = one.*value)
      curve.push_back({axis == Axis::kTokens ? static_cast<double>(one.tokens) : one.seconds, *y});
  return curve;
}

}  // namespace

const std::vector<Measurement>& RunRecord::headline() const {
  static const std::vector<Measurement> none;
  return held_out.empty() ? none : held_out.front().list;
}

RunRecord read_run_record(const fs::path& metrics, const std::string& headline) {
  RunRecord run;
  run.held_out = {{headline, {}, false}};
  if (!fs::exists(metrics)) return run;
  const std::string text = read_file(metrics);
  std::vector<double> rates;
  int64_t number = 0;
  for (size_t begin = 0, end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
    const std::string source = fmt::format("{}:{}", metrics.string(), ++number);
    const Json record = parse_json<Json>(std::string_view(text).substr(begin, end - begin), source);
    check(record.is_object(), "[{}] expected an object, got {}", source, record.type_name());
    if (record.contains("grad_norm")) {
      add_step(record, source, run);
      rates.push_back(number_at(record, "tokens_per_s").value_or(0));
    } else {
      add_evaluation(record, run);
    }
  }
  if (!rates.empty()) run.tokens_per_s = summarize(std::move(rates)).median;
  return run;
}

Curve losses(const std::vector<Measurement>& list, Axis axis) {
  return curve_of(list, axis, &Measurement::loss);
}

Curve bits_per_byte(const std::vector<Measurement>& list, Axis axis) {
  return curve_of(list, axis, &Measurement::bits_per_byte);
}

}  // namespace megalodon::report
