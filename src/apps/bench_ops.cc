#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "apps/bench_commands.h"
#include "base/check.h"
#include "base/timing.h"
#include "ops/bench.h"
#include "ops/device.h"
#include "train/machine.h"

namespace megalodon::apps {
namespace {

using ops::bench::Case;

struct OpsOptions {
  std::vector<std::string> ops;
  double seconds = 0.5;
  std::string device = "cpu";
  bool json = false;
};

struct Limits {
  double bandwidth, flops;  // a second
};

std::vector<std::string> op_names() {
  std::vector<std::string> names;
  for (const auto& [name, cases] : ops::bench::all_cases()) names.push_back(name);
  return names;
}

/// 0.00123 -> "1.230 ms"
std::string time_text(double seconds) {
  return seconds < 1e-3 ? fmt::format("{:.1f} µs", seconds * 1e6) : fmt::format("{:.3f} ms", seconds * 1e3);
}

/// "12.3 (0.45)": a rate in units of 10^9, and its share of what the machine can do.
std::string rate_text(double work, double seconds, double limit) {
  return work > 0 ? fmt::format("{:.1f} ({:.2f})", work / seconds * 1e-9, work / seconds / limit) : "";
}

void print_row(const Case& one, const Timing& time, double error, const Limits& limits, torch::Device device,
               bool json) {
  if (json) {
    nlohmann::ordered_json line = {{"case", "op"},
                                   {"op", one.op},
                                   {"pass", one.pass},
                                   {"shape", one.shape},
                                   {"median_s", time.median},
                                   {"p10_s", time.p10},
                                   {"p90_s", time.p90},
                                   {"repetitions", time.repetitions},
                                   {"error", error}};
    if (one.work.bytes > 0) line["bytes"] = one.work.bytes;
    if (one.work.bytes > 0) line["bandwidth_share"] = one.work.bytes / time.median / limits.bandwidth;
    if (one.work.flops > 0) line["flops"] = one.work.flops;
    if (one.work.flops > 0) line["gemm_share"] = one.work.flops / time.median / limits.flops;
    line["machine"] = describe_machine(device);
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("| {:<20} | {:<16} | {:<41} | {:>10} | {:>23} | {:>12} | {:>13} | {:.0e} |\n", one.op, one.pass,
               one.shape, time_text(time.median), time_text(time.p10) + " – " + time_text(time.p90),
               rate_text(one.work.bytes, time.median, limits.bandwidth),
               rate_text(one.work.flops, time.median, limits.flops), error);
  }
  std::fflush(stdout);
}

void run_ops(const OpsOptions& options) {
  const torch::Device device = ops::parse_device(options.device);
  const bool gpu = device.is_cuda();
  const Limits limits{measure_bandwidth(device),
                      measure_peak_flops(gpu ? nn::Precision::kBfloat16 : nn::Precision::kFloat32, device)};
  if (!options.json) {
    fmt::print("megalodon {}, {}\n", MEGALODON_VERSION, describe_machine(device));
    fmt::print("memory {} at {:.1f} GB/s, {} matrix products at {:.1f} GFLOP/s; shares of these in brackets\n\n",
               gpu ? "copies" : "reads", limits.bandwidth * 1e-9, gpu ? "bfloat16" : "float32", limits.flops * 1e-9);
    fmt::print(
        "| operator             | pass             | shape                                     |     median |          "
        "     "
        "p10 – p90 |         GB/s |       GFLOP/s | error |\n|---|---|---|---|---|---|---|---|\n");
  }
  for (const auto& [name, cases] : ops::bench::all_cases()) {
    if (!options.ops.empty() && std::find(options.ops.begin(), options.ops.end(), name) == options.ops.end()) continue;
    torch::manual_seed(1);
    for (const Case& one : cases(device)) {
      const double error = one.error();
      check(error <= one.tolerance, "[bench ops] {} {} {}: not timed, its error is {}, allowed are {}", one.op,
            one.pass, one.shape, error, one.tolerance);
      print_row(one,
                measure(
                    [&] {
                      one.run();
                      ops::synchronize(device);
                    },
                    {.seconds = options.seconds}),
                error, limits, device, options.json);
    }
  }
}

}  // namespace

void add_bench_ops(CLI::App& bench, Common& common) {
  auto* command = bench.add_subcommand("ops", "Time of every operator, compared with float64 before it is timed");
  auto options = std::make_shared<OpsOptions>();
  command->add_option("ops", options->ops, fmt::format("which; default: all of {}", fmt::join(op_names(), ", ")))
      ->check(CLI::IsMember(op_names()));
  command->add_option("--seconds", options->seconds, "that each case is repeated for, at least five times")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
  add_device(*command, options->device);
  command->add_flag("--json", options->json, "one JSON object a line, for machines");
  add_threads(*command, common);
  command->callback([options, &common] {
    use_threads(common.threads);
    run_ops(*options);
  });
}

}  // namespace megalodon::apps
