#include "report/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/human.h"

namespace megalodon::report {
namespace {

/// Of the headline set.
struct HeldOut {
  std::optional<double> loss, bits_per_byte;
};

HeldOut held_out_at(const System& system, Axis axis, std::optional<double> budget) {
  if (!budget) return {};
  const auto& headline = system.run.headline();
  return {value_at(losses(headline, axis), *budget), value_at(bits_per_byte(headline, axis), *budget)};
}

std::string for_people(std::optional<double> value) {
  return value ? fmt::format("{:.4f}", *value) : "-";
}

std::string for_programs(std::optional<double> value) {
  return value ? fmt::format("{}", *value) : "";
}

std::optional<double> if_known(double value) {
  return value > 0 ? std::optional(value) : std::nullopt;
}

/// What kept it from the losses that others have; "" where nothing did.
std::string outcome_of(const System& system) {
  if (!system.failure.empty()) return "failed";
  return system.run.diverged() ? "diverged" : "";
}

std::string name_and_outcome(const System& system) {
  const std::string outcome = outcome_of(system);
  return outcome.empty() ? system.name : fmt::format("{} ({})", system.name, outcome);
}

std::string state_of(const System& system) {
  const std::string fixed = human_bytes(static_cast<double>(system.state_bytes));
  if (system.state_bytes_a_token == 0) return fixed;
  return fmt::format("{} + {} a token", fixed, human_bytes(static_cast<double>(system.state_bytes_a_token)));
}

std::string mebibytes(double value) {
  return value > 0 ? fmt::format("{:.0f} MiB", value) : "-";
}

bool uses_gpu(const std::vector<System>& systems) {
  return std::any_of(systems.begin(), systems.end(), [](const System& one) { return one.run.peak_gpu_mib > 0; });
}

std::string whole(double number) {
  return with_commas(std::llround(number));
}

std::string three_digits(double number) {
  return number < 100 ? fmt::format("{:.3g}", number) : whole(number);
}

Line line_of(const System& system, Curve curve, bool has_marks) {
  return {system.name, std::move(curve), has_marks};
}

}  // namespace

std::optional<double> common_budget(const std::vector<System>& systems, Axis axis) {
  std::optional<double> least;
  for (const System& system : systems) {
    const Curve curve = losses(system.run.headline(), axis);
    if (outcome_of(system).empty() && !curve.empty() && (!least || curve.back().x < *least)) least = curve.back().x;
  }
  return least;
}

Table size_table(const std::vector<System>& systems) {
  Table table = {{"system", "architecture", "parameters", "training FLOPs a token", "state of a stream"}, {}};
  for (const System& one : systems)
    table.rows.push_back(
        {one.name, one.architecture, with_commas(one.parameters), whole(one.training_flops_a_token), state_of(one)});
  return table;
}

Table result_table(const std::vector<System>& systems) {
  const auto tokens = common_budget(systems, Axis::kTokens), seconds = common_budget(systems, Axis::kSeconds);
  Table table = {{"system", "parameters", tokens ? fmt::format("loss after {} tokens", whole(*tokens)) : "loss",
                  "bits per byte", seconds ? fmt::format("loss after {} s", three_digits(*seconds)) : "loss",
                  "bits per byte", "tokens/s", "peak memory", "state of a stream"},
                 {}};
  if (uses_gpu(systems)) table.headings.emplace_back("peak GPU memory");
  for (const System& one : systems) {
    const HeldOut at_tokens = held_out_at(one, Axis::kTokens, tokens);
    const HeldOut at_seconds = held_out_at(one, Axis::kSeconds, seconds);
    table.rows.push_back({name_and_outcome(one), with_commas(one.parameters), for_people(at_tokens.loss),
                          for_people(at_tokens.bits_per_byte), for_people(at_seconds.loss),
                          for_people(at_seconds.bits_per_byte), one.run.steps > 0 ? whole(one.run.tokens_per_s) : "-",
                          mebibytes(one.run.peak_mib), state_of(one)});
    if (uses_gpu(systems)) table.rows.back().push_back(mebibytes(one.run.peak_gpu_mib));
  }
  return table;
}

Table result_numbers(const std::vector<System>& systems) {
  const auto tokens = common_budget(systems, Axis::kTokens), seconds = common_budget(systems, Axis::kSeconds);
  Table table = {{"system",
                  "architecture",
                  "parameters",
                  "training_flops_per_token",
                  "steps",
                  "tokens",
                  "seconds",
                  "tokens_per_s",
                  "held_out_set",
                  "equal_tokens",
                  "loss_at_equal_tokens",
                  "bits_per_byte_at_equal_tokens",
                  "equal_seconds",
                  "loss_at_equal_seconds",
                  "bits_per_byte_at_equal_seconds",
                  "peak_rss_mib",
                  "peak_gpu_mib",
                  "state_bytes",
                  "state_bytes_per_token",
                  "outcome"},
                 {}};
  for (const System& one : systems) {
    const HeldOut at_tokens = held_out_at(one, Axis::kTokens, tokens);
    const HeldOut at_seconds = held_out_at(one, Axis::kSeconds, seconds);
    const RunRecord& run = one.run;
    table.rows.push_back({one.name,
                          one.architecture,
                          fmt::format("{}", one.parameters),
                          fmt::format("{}", one.training_flops_a_token),
                          fmt::format("{}", run.steps),
                          fmt::format("{}", run.tokens),
                          fmt::format("{}", run.seconds),
                          for_programs(if_known(run.tokens_per_s)),
                          run.held_out.empty() ? "" : run.held_out.front().name,
                          for_programs(tokens),
                          for_programs(at_tokens.loss),
                          for_programs(at_tokens.bits_per_byte),
                          for_programs(seconds),
                          for_programs(at_seconds.loss),
                          for_programs(at_seconds.bits_per_byte),
                          for_programs(if_known(run.peak_mib)),
                          for_programs(if_known(run.peak_gpu_mib)),
                          fmt::format("{}", one.state_bytes),
                          fmt::format("{}", one.state_bytes_a_token),
                          outcome_of(one)});
  }
  return table;
}

Table curve_numbers(const std::vector<System>& systems) {
  Table table = {{"system", "series", "step", "tokens", "seconds", "loss", "bits_per_byte"}, {}};
  for (const System& system : systems) {
    const auto add = [&](const std::string& series, const Measurement& at, const std::string& bits) {
      table.rows.push_back({system.name, series, fmt::format("{}", at.step), fmt::format("{}", at.tokens),
                            fmt::format("{}", at.seconds), fmt::format("{}", at.loss), bits});
    };
    for (const Measurement& one : system.run.training) add("training", one, "");
    for (const HeldOutSet& set : system.run.held_out)
      for (const Measurement& one : set.list) add(set.name, one, for_programs(one.bits_per_byte));
  }
  return table;
}

std::vector<Plot> loss_plots(const std::vector<System>& systems) {
  std::vector<Plot> plots;
  for (const auto& [axis, label] : {std::pair{Axis::kTokens, "tokens"}, {Axis::kSeconds, "seconds of training"}}) {
    const std::string file = axis == Axis::kTokens ? "tokens" : "seconds";
    Plot held_out = {"held_out_by_" + file, fmt::format("Held-out loss by {}", label), label, "nats a token", {}};
    Plot training = {
        "training_by_" + file, fmt::format("Training loss, smoothed, by {}", label), label, "nats a token", {}};
    for (const System& system : systems) {
      held_out.lines.push_back(line_of(system, losses(system.run.headline(), axis), true));
      training.lines.push_back(line_of(system, smoothed(losses(system.run.training, axis)), false));
    }
    plots.push_back(std::move(held_out));
    plots.push_back(std::move(training));
  }
  return plots;
}

std::string comparison_page(const Circumstances& made, const std::vector<System>& systems) {
  std::string page = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Architectures compared</title>
<style>
:root { color-scheme: light dark; }
body { max-width: 1300px; margin: 2em auto; padding: 0 1em; font: 15px/1.5 system-ui, sans-serif; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
th, td { padding: 0.3em 0.8em; text-align: right; border-bottom: 1px solid color-mix(in srgb, currentColor 20%, transparent); }
th { vertical-align: bottom; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr)); gap: 1.5em; margin: 2em 0; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: 13px; }
)";
  page += kPlotStyle;
  page += "</style>\n</head>\n<body>\n<h1>Architectures compared</h1>\n";
  page += fmt::format("<p>{}; {}; {}</p>\n<pre>{}</pre>\n", escape_html(made.version), escape_html(made.machine),
                      escape_html(made.date), escape_html(made.command));
  page += "<div class=\"wide\">\n" + to_html(result_table(systems)) + "</div>\n<div class=\"plots\">\n";
  for (const Plot& plot : loss_plots(systems)) page += to_svg(plot);
  page += R"(</div>
<ul>
<li>All systems read the same text in the same order, with the same optimizer, schedule and tokens a step.</li>
)";
  page += fmt::format("<li>Held-out text: {}.</li>\n", escape_html(systems.front().run.held_out.front().name));
  for (const System& one : systems)
    if (!one.failure.empty())
      page += fmt::format("<li>{} failed: {}</li>\n", escape_html(one.name), escape_html(one.failure));
  page +=
      R"(<li>Losses in the table are those of held-out text, at the most tokens and at the most seconds that all systems have had when
they were evaluated, without those that failed or whose last loss is no finite number; between two evaluations they are read off the straight line, and before the first there is none (-).</li>
<li>Seconds are those of training steps, without evaluations and saving; tokens/s is the median of all steps. Systems train in turns, so that
a slow time of the machine is everybody's.</li>
<li>Peak memory is the resident memory of the process, each system in one of its own. The state of a stream is float32, at most, with what
it grows by where attention sees everything.</li>
</ul>
)";
  page += "<h2>What was compared</h2>\n<div class=\"wide\">\n" + to_html(size_table(systems)) + "</div>\n";
  page += fmt::format("<h2>Run file</h2>\n<pre>{}</pre>\n</body>\n</html>\n", escape_html(made.run_file));
  return page;
}

}  // namespace megalodon::report
