#include "train/monitor.h"

#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/process.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

constexpr double kSmoothing = 0.95;  // of the displayed loss: about the last 20 steps

double smooth(double average, double value) {
  if (!std::isfinite(value)) return average;
  return average == 0 ? value : kSmoothing * average + (1 - kSmoothing) * value;
}

/// Rounded to what can be told apart.
double rate(double per_second) {
  return per_second >= 100 ? std::round(per_second) : std::round(100 * per_second) / 100;
}

double mebibytes(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

MetricsLog::Position metrics_position(const TrainerState& state) {
  return {.step = state.step, .records = state.records, .unwritten = state.unwritten};
}

void add(Json& record, const std::string& suffix, const Evaluation& result, const char* unit) {
  record["eval_loss" + suffix] = result.loss;
  if (result.bits_per_byte) {
    record["perplexity" + suffix] = std::exp(result.loss);
    record["bits_per_byte" + suffix] = *result.bits_per_byte;
  }
  if (result.accuracy) record["accuracy" + suffix] = *result.accuracy;
  record[fmt::format("eval_{}{}", unit, suffix)] = result.targets;
}

std::string to_text(const Evaluation& result, const char* unit) {
  std::string text = fmt::format("{:.4f}", result.loss);
  if (result.bits_per_byte)
    text += fmt::format(", perplexity {:.3f}, {:.4f} bits per byte", std::exp(result.loss), *result.bits_per_byte);
  if (result.accuracy) text += fmt::format(", accuracy {:.2f} %", 100 * *result.accuracy);
  return text + fmt::format(" ({} {})", format_count(static_cast<double>(result.targets)), unit);
}

}  // namespace

Monitor::Monitor(const TrainConfig& config, StepSize size, std::FILE* out)
    : config_(config), size_(size), progress_("train", "steps", out, Progress::Plain::kNothing) {}

void Monitor::open(const RunFolder& folder, const TrainerState& state, bool goes_on) {
  metrics_.emplace(folder.metrics(), metrics_position(state));
  if (goes_on && metrics_->records() < state.records)
    print(fmt::format("warning: '{}' lost its last {} records of steps up to {}", folder.metrics().string(),
                      state.records - metrics_->records(), state.step));
  if (config_.tensorboard) events_.emplace(folder.path() / "tensorboard", state.step + 1);
}

void Monitor::complete(const RunFolder& folder, const TrainerState& state) {
  if (!state.unwritten.empty()) MetricsLog(folder.metrics(), metrics_position(state)).file().finish();
}

void Monitor::rewind(const TrainerState& state) {
  metrics_->rewind(metrics_position(state));
  if (events_) events_->restart(state.step + 1);
}

void Monitor::mark(TrainerState& state) {
  state.records = metrics_->records();
  state.unwritten.assign(metrics_->file().unwritten().begin(), metrics_->file().unwritten().end());
}

std::vector<LogFile*> Monitor::files() {
  std::vector<LogFile*> list = {&metrics_->file()};
  if (events_) list.push_back(&events_->file());
  return list;
}

void Monitor::close() {
  std::vector<std::string> errors;
  for (LogFile* file : files()) {
    try {
      file->finish();
    } catch (const Error& error) {
      errors.emplace_back(error.what());
    }
  }
  check(errors.empty(), "{}", fmt::join(errors, "; "));
}

void Monitor::configuration(int64_t step, const std::string& toml) {
  if (events_) events_->text(step, "config", "```toml\n" + toml + "```\n");
}

/// A line of metrics.jsonl, whose numbers are TensorBoard's scalars.
void Monitor::record(const Json& record) {
  metrics_->append(record);
  if (events_) {
    std::vector<Scalar> scalars;
    for (const auto& [key, value] : record.items())
      if (key != "step" && value.is_number()) scalars.push_back({key, value.get<double>()});
    events_->scalars(record["step"].get<int64_t>(), scalars);
  }
  for (LogFile* file : files())
    if (const std::string news = file->take_news(); !news.empty()) print(news);
}

void Monitor::step(const StepReport& report) {
  Json line = {{"step", report.step},
               {"loss", report.loss},
               {"grad_norm", report.norm},
               {"lr", report.lr},
               {size_.unit, report.total_targets},
               {fmt::format("{}_per_s", size_.unit), rate(static_cast<double>(report.targets) / report.seconds)},
               {"step_s", report.seconds},
               {"data_wait_s", report.data_wait},
               {"save_wait_s", report.save_wait},
               {"rss_mb", mebibytes(resident_bytes())},
               {"peak_rss_mb", mebibytes(peak_resident_bytes())},
               {"skips", report.skips},
               {"rollbacks", report.rollbacks}};
  if (report.gpu_bytes > 0) line["peak_gpu_mb"] = mebibytes(report.gpu_bytes);
  if (peak_flops_ > 0 && size_.flops > 0) line["share_of_peak"] = size_.flops / report.seconds / peak_flops_;
  if (report.judgement.loss_z) line["loss_z"] = *report.judgement.loss_z;
  if (report.judgement.norm_z) line["grad_norm_z"] = *report.judgement.norm_z;
  if (report.judgement.verdict == Verdict::kSkip) line["skipped"] = report.judgement.reason;
  record(line);
  if (report.judgement.verdict == Verdict::kSkip)
    print(fmt::format("step {}: {}; the update is skipped", report.step, report.judgement.reason));
  if (!report.judgement.warning.empty()) print(report.judgement.warning);
  show(report);
}

void Monitor::show(const StepReport& report) {
  smooth_loss_ = smooth(smooth_loss_, report.loss);
  smooth_seconds_ = smooth(smooth_seconds_, report.seconds);
  smooth_targets_ = smooth(smooth_targets_, static_cast<double>(report.targets));
  const std::string detail = fmt::format("loss {:.4f}  lr {:.2e}  norm {:.3f}  {} {}/s", smooth_loss_, report.lr,
                                         report.norm, format_count(smooth_targets_ / smooth_seconds_), size_.unit);
  progress_.update(report.step, config_.steps, detail);
  const bool first_or_last = report.step == 1 || report.step == config_.last_step();
  if (!progress_.interactive() && (first_or_last || report.step % config_.log_every == 0))
    print(fmt::format("step {}/{}  {}  ETA {}", report.step, config_.steps, detail,
                      format_duration(smooth_seconds_ * static_cast<double>(config_.steps - report.step))));
}

void Monitor::evaluation(int64_t step, const std::vector<NamedEvaluation>& list,
                         const std::vector<NamedEvaluation>& ema, double seconds) {
  Json line = {{"step", step}};
  const auto add_all = [&](const std::vector<NamedEvaluation>& sets, const char* suffix, const char* of) {
    for (const auto& [name, result] : sets) {
      add(line, "/" + name + suffix, result, size_.unit);
      print(fmt::format("step {}: held-out loss{} on {} {}", step, of, name, to_text(result, size_.unit)));
    }
  };
  add_all(list, "", "");
  add_all(ema, ".ema", " of the averaged weights");
  line["eval_s"] = seconds;
  record(line);
}

void Monitor::rollback(int64_t step, const StepReport& bad) {
  record(
      {{"step", step}, {"rolled_back_from", bad.step}, {"reason", bad.judgement.reason}, {"rollbacks", bad.rollbacks}});
  print(
      fmt::format("step {}: {}; back to the checkpoint of step {}, on with the data after that step: from here on "
                  "this is no longer the run without the incident",
                  bad.step, bad.judgement.reason, step));
}

void Monitor::saved(const SaveReport& report) {
  if (!report.error.empty())
    return print(fmt::format("warning: step {} could not be saved: {}", report.step, report.error));
  print(fmt::format("step {}: saved {} bytes in {:.2f} s", report.step, format_count(static_cast<double>(report.bytes)),
                    report.seconds));
}

}  // namespace megalodon
