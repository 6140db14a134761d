#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/bench_commands.h"
#include "base/process.h"
#include "infer/speed.h"
#include "models/fixed_model.h"
#include "ops/device.h"
#include "train/machine.h"

namespace megalodon::apps {
namespace {

using Json = nlohmann::ordered_json;

struct InferenceOptions {
  std::string preset = "mega200M", model;
  std::vector<std::string> types;
  std::vector<int64_t> depths = {0}, batches = {1}, prompts = {2048};
  int64_t generated = 128, repetitions = 3;
  std::string device = "cpu";
  bool queue_each = false, json = false;
};

/// All types, or the one of a quantized folder, where none was named.
std::vector<std::string> types_of(const InferenceOptions& options) {
  if (!options.types.empty()) return options.types;
  if (!options.model.empty())
    if (const auto stored = with_model_folder(options.model, load_config).matrices) return {ops::name_of(*stored)};
  return {"float32", "bfloat16", "q8", "q4"};
}

std::unique_ptr<Model> make_model(const InferenceOptions& options, ops::FixedType type) {
  const torch::Device device = ops::parse_device(options.device);
  if (!options.model.empty()) return load_fixed_model(options.model, type, device).model;
  auto model = make_preset(options.preset)->build();
  model->init_weights(1);
  model->to(device);
  model->fix(type);
  ops::reset_peak_memory(device);  // what the float32 matrices took goes back to the system
  return model;
}

Json description(const InferenceOptions& options, const std::string& type, const Model& model) {
  return {{"model", options.model.empty() ? options.preset : options.model},
          {"type", type},
          {"params", model.info().parameters},
          {"device", options.device},
          {"threads", at::get_num_threads()}};
}

/// Tokens a second of a time per step, median and what a tenth of the steps was slower and faster than.
void add_speed(Json& line, const Timing& timing, double tokens) {
  line["tok_s"] = tokens / timing.median;
  line["tok_s_p10"] = tokens / timing.p90;
  line["tok_s_p90"] = tokens / timing.p10;
  line["repetitions"] = timing.repetitions;
}

void finish(Json& line, torch::Device device) {
  line["rss_mb"] = static_cast<double>(resident_bytes()) / 1e6;
  line["machine"] = describe_machine(device);
  line["version"] = MEGALODON_VERSION;
}

/// Prints a table's head once, and each case as a row or, for machines, as an object.
class Table {
 public:
  Table(const InferenceOptions& options, std::vector<std::string> columns)
      : json_(options.json), columns_(std::move(columns)) {
    if (json_) return;
    fmt::print("megalodon {}, {}\n\n| {} |\n|{}\n", MEGALODON_VERSION,
               describe_machine(ops::parse_device(options.device)), fmt::join(columns_, " | "),
               fmt::join(std::vector<std::string>(columns_.size(), "---|"), ""));
  }
  void print(const Json& line) const {
    if (json_) {
      fmt::print("{}\n", line.dump());
    } else {
      std::vector<std::string> cells;
      for (const std::string& column : columns_) cells.push_back(cell(line.at(column)));
      fmt::print("| {} |\n", fmt::join(cells, " | "));
    }
    std::fflush(stdout);
  }

 private:
  static std::string cell(const Json& value) {
    if (value.is_string()) return value.get<std::string>();
    return value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump();
  }

  bool json_;
  std::vector<std::string> columns_;
};

/// A model of every type in turn, so that one is in memory at a time.
template <class Use>
void for_each_type(const InferenceOptions& options, const Use& use) {
  for (const std::string& type : types_of(options)) {
    const auto model = make_model(options, ops::fixed_type(type));
    check_stepping(*model, ops::fixed_type(type));
    use(*model, type, matrix_bytes(*model));
  }
}

void run_decode(const InferenceOptions& options) {
  const Table table(options,
                    {"model", "type", "depth", "batch", "tok_s", "tok_s_p10", "tok_s_p90", "read_share", "rss_mb"});
  for_each_type(options, [&](Model& model, const std::string& type, int64_t matrices) {
    for (const int64_t depth : options.depths)
      for (const int64_t batch : options.batches) {
        const double bandwidth = measure_bandwidth(model.device());  // beside every case: another one a minute later
        const DecodeSpeed speed = measure_decode(model, ops::fixed_type(type),
                                                 {depth, batch, options.generated, !options.queue_each}, matrices);
        Json line = {{"case", "decode"}};
        line.update(description(options, type, model));
        line.update({{"depth", depth}, {"batch", batch}, {"gen", options.generated}, {"repeats", !options.queue_each}});
        add_speed(line, speed.step, static_cast<double>(batch));
        line["read_share"] = static_cast<double>(speed.bytes) / speed.step.median / bandwidth;
        line["bytes"] = speed.bytes;
        line["bandwidth_gb_s"] = bandwidth * 1e-9;
        finish(line, model.device());
        table.print(line);
      }
  });
}

void run_prefill(const InferenceOptions& options) {
  const Table table(options, {"model", "type", "prompt", "tok_s", "tok_s_p10", "tok_s_p90", "rss_mb"});
  for_each_type(options, [&](Model& model, const std::string& type, int64_t) {
    for (const int64_t prompt : options.prompts) {
      Json line = {{"case", "prefill"}};
      line.update(description(options, type, model));
      line["prompt"] = prompt;
      add_speed(line, measure_prefill(model, ops::fixed_type(type), prompt, options.repetitions),
                static_cast<double>(prompt));
      finish(line, model.device());
      table.print(line);
    }
  });
}

std::shared_ptr<InferenceOptions> add_shared(CLI::App& command, Common& common) {
  auto options = std::make_shared<InferenceOptions>();
  auto* preset = command
                     .add_option("--preset", options->preset,
                                 fmt::format("with random weights, of {}", fmt::join(preset_names(), ", ")))
                     ->capture_default_str();
  command.add_option("--model", options->model, "instead: a model or run folder")->excludes(preset);
  accept_types(*command
                    .add_option("--type", options->types,
                                "of the matrices: float32 (f32), bfloat16 (bf16), q8, q4, or several; without it all, "
                                "or that of a quantized folder")
                    ->delimiter(','));
  command.add_flag("--json", options->json, "one JSON object a line, for machines");
  add_device(command, options->device);
  add_threads(command, common);
  return options;
}

}  // namespace

void add_bench_decode(CLI::App& bench, Common& common) {
  auto* command = bench.add_subcommand(
      "decode", "Tokens a second, one by one, of streams that have read so many already; checked before timed");
  const auto options = add_shared(*command, common);
  command->add_option("--depth", options->depths, "tokens that each stream has read before, or several depths")
      ->delimiter(',')
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("--batch", options->batches, "streams that are stepped together, or several numbers")
      ->delimiter(',')
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option("--gen", options->generated, "timed steps")->check(at_least(1))->capture_default_str();
  command->add_flag("--queue-each", options->queue_each, "on a GPU, queue each step anew instead of repeating one");
  command->callback([options, &common] {
    use_threads(common.threads);
    run_decode(*options);
  });
}

void add_bench_prefill(CLI::App& bench, Common& common) {
  auto* command = bench.add_subcommand("prefill", "Tokens a second of reading a prompt; checked before timed");
  const auto options = add_shared(*command, common);
  command->add_option("--prompt", options->prompts, "tokens of the prompt, or several lengths")
      ->delimiter(',')
      ->check(at_least(1))
      ->capture_default_str();
  command->add_option("--repetitions", options->repetitions, "timed, after one that does not count")
      ->check(at_least(1))
      ->capture_default_str();
  command->callback([options, &common] {
    use_threads(common.threads);
    run_prefill(*options);
  });
}

}  // namespace megalodon::apps
