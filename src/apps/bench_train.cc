#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/bench_commands.h"
#include "base/check.h"
#include "ops/device.h"
#include "train/machine.h"
#include "train/throughput.h"

namespace megalodon::apps {
namespace {

struct TrainOptions {
  std::vector<std::string> presets = {"byte11m"}, precisions = {"float32", "bfloat16"};
  std::vector<int64_t> lengths = {2048};
  int64_t batch = 1, tokens = 0, steps = 5, warmups = 2;
  std::string device = "cpu";
  int64_t chunk = 0, checkpoint_every = 0;
  bool json = false;
};

nn::Precision parse_precision(const std::string& name) {
  return name == "float32" ? nn::Precision::kFloat32 : nn::Precision::kBfloat16;
}

/// Sequences of a step: as many as make up the tokens, where those are given.
int64_t batch_of(const TrainOptions& options, int64_t length) {
  if (options.tokens == 0) return options.batch;
  if (options.tokens % length != 0)
    fail_usage("[bench train] --tokens {} is no multiple of --seq {}", options.tokens, length);
  return options.tokens / length;
}

struct NamedCase {
  std::string preset, precision;
  ThroughputCase options;
};

void print_row(const NamedCase& one, const Throughput& result, double peak_flops, bool json) {
  const auto tokens = static_cast<double>(result.tokens);
  const double share = result.flops / result.step.median / peak_flops;
  const double peak_mb = static_cast<double>(result.peak_bytes) / 1e6;
  if (json) {
    const nlohmann::ordered_json line = {{"case", "train"},
                                         {"preset", one.preset},
                                         {"tok_s", tokens / result.step.median},
                                         {"tok_s_p10", tokens / result.step.p90},
                                         {"tok_s_p90", tokens / result.step.p10},
                                         {"steps", result.step.repetitions},
                                         {"params", result.parameters},
                                         {"seq", one.options.length},
                                         {"batch", one.options.batch},
                                         {"precision", one.precision},
                                         {"checkpoint_every", one.options.checkpoint_every},
                                         {"device", one.options.device.str()},
                                         {"gemm_share", share},
                                         {"gemm_peak_gflops", peak_flops * 1e-9},
                                         {"peak_mb", peak_mb},
                                         {"machine", describe_machine(one.options.device)},
                                         {"version", MEGALODON_VERSION}};
    fmt::print("{}\n", line.dump());
  } else {
    fmt::print("| {:<13} | {:>6} | {:>5} | {:<9} | {:>8.0f} | {:>17} | {:>10.2f} | {:>8.0f} | {:>15.1f} |\n",
               one.preset, one.options.length, one.options.batch, one.precision, tokens / result.step.median,
               fmt::format("{:.0f} – {:.0f}", tokens / result.step.p90, tokens / result.step.p10), share, peak_mb,
               static_cast<double>(result.peak_bytes) / tokens / 1e3);
  }
  std::fflush(stdout);
}

std::vector<NamedCase> cases_of(const TrainOptions& options) {
  std::vector<NamedCase> cases;
  for (const std::string& preset : options.presets) {
    const std::shared_ptr<ModelConfig> config = make_preset(preset);
    if (options.chunk > 0) config::read(*config, {{"chunk_size", options.chunk}}, {}, "--chunk");
    for (const int64_t length : options.lengths)
      for (const std::string& precision : options.precisions)
        cases.push_back({preset,
                         precision,
                         {.config = config,
                          .batch = batch_of(options, length),
                          .length = length,
                          .precision = parse_precision(precision),
                          .checkpoint_every = options.checkpoint_every,
                          .device = ops::parse_device(options.device),
                          .warmups = options.warmups,
                          .steps = options.steps}});
  }
  return cases;
}

void run_train(const TrainOptions& options) {
  const auto cases = cases_of(options);
  if (!options.json) {
    fmt::print("megalodon {}, {}\n", MEGALODON_VERSION, describe_machine(ops::parse_device(options.device)));
    fmt::print("medians of {} steps after {} that do not count\n\n", options.steps, options.warmups);
    fmt::print(
        "| preset        |    seq | batch | precision | tokens/s |         p10 – p90 | GEMM share |  peak MB | "
        "peak kB a token |\n");
    fmt::print("|---|---|---|---|---|---|---|---|---|\n");
  }
  for (const NamedCase& one : cases) {
    // Measured beside every case: on a shared machine it is another number a minute later.
    const double peak = measure_peak_flops(one.options.precision, one.options.device);
    print_row(one, measure_throughput(one.options), peak, options.json);
  }
}

}  // namespace

void add_bench_train(CLI::App& bench, Common& common) {
  auto* command = bench.add_subcommand("train", "Tokens a second of whole training steps, checked before timed");
  auto options = std::make_shared<TrainOptions>();
  command->add_option("--preset", options->presets, fmt::format("of {}", fmt::join(preset_names(), ", ")))
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--seq", options->lengths, "tokens of a sequence, or several: 512,2048,8192")
      ->delimiter(',')
      ->check(at_least(1))
      ->capture_default_str();
  auto* batch =
      command->add_option("--batch", options->batch, "sequences of a step")->check(at_least(1))->capture_default_str();
  command->add_option("--tokens", options->tokens, "instead of --batch: tokens of a step, whatever --seq")
      ->check(at_least(1))
      ->excludes(batch);
  command->add_option("--precision", options->precisions, "float32, bfloat16, or both")
      ->delimiter(',')
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  command->add_option("--steps", options->steps, "timed steps")->check(at_least(1))->capture_default_str();
  command->add_option("--warmup", options->warmups, "steps before them")->check(at_least(0))->capture_default_str();
  command->add_option("--chunk", options->chunk, "steps of an attention chunk; 0: the preset's")
      ->check(at_least(0))
      ->capture_default_str();
  command
      ->add_option("--checkpoint-every", options->checkpoint_every,
                   "recompute activations of one layer in so many in the backward pass; 0: of none")
      ->check(at_least(0))
      ->capture_default_str();
  add_device(*command, options->device);
  command->add_flag("--json", options->json, "one JSON object a line, for machines");
  add_threads(*command, common);
  command->callback([options, &common] {
    use_threads(common.threads);
    run_train(*options);
  });
}

}  // namespace megalodon::apps
