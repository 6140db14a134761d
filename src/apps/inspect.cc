#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/check.h"
#include "models/fixed_model.h"
#include "train/checkpoint.h"
#include "train/run_config.h"

namespace megalodon::apps {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string target;
  bool tensors = false, json = false;
};

struct Target {
  std::unique_ptr<ModelConfig> config;
  Json stored = Json::object();  // of a folder: what it says besides
};

Target read_folder(const fs::path& folder) {
  FolderConfig config = load_config(folder);
  Target target{std::move(config.model)};
  if (fs::exists(folder / "trainer.json")) target.stored["step"] = read_trainer_state(folder).step;
  target.stored["tokenizer"] = config.tokenizer;
  target.stored["matrices"] = type_of_matrices(folder);
  return target;
}

/// A preset's name, a run file, or a folder with a model.
Target resolve(const std::string& target) {
  for (const Preset& preset : presets())
    if (preset.name == target) return {preset.config->clone()};
  if (fs::is_directory(target)) return with_model_folder(target, read_folder);
  if (fs::exists(target)) return {load_run_config(target, {}).model->clone()};
  const std::string near = config::nearest(target, preset_names());
  fail_usage("[inspect] {}: no such folder, run file or preset{}; presets: {}", target,
             near.empty() ? "" : fmt::format("; did you mean {}?", near), fmt::join(preset_names(), ", "));
}

void run_inspect(const InspectOptions& options) {
  const auto [config, stored] = resolve(options.target);
  const auto model = config->build();  // memory is reserved, not touched
  const ModelInfo info = model->info();
  const double weights = 4.0 * info.parameters;
  const double flops = info.mean_forward_flops(std::max<int64_t>(info.chunk_size, 1));
  if (options.json) {
    Json tree = {{"architecture", config->architecture()},    {"parameters", info.parameters},
                 {"forward_flops_per_token", flops},          {"state_bytes_fixed", info.state_bytes_fixed},
                 {"state_bytes_full", info.state_bytes_full}, {"state_bytes_a_token", info.state_bytes_a_token}};
    tree.update(stored);
    tree["config"] = config::write(config::Visit([&](config::Visitor& v) { config->visit(v); }));
    fmt::print("{}\n", tree.dump());
    return;
  }
  fmt::print("{}\n\n", options.target);
  fmt::print("{}\n", config::to_toml(config::write(config::Visit([&](config::Visitor& v) { config->visit(v); }))));
  for (const auto& [name, value] : stored.items())
    fmt::print("{:<23} {:>16}\n", name, value.is_string() ? value.get<std::string>() : value.dump());
  fmt::print("parameters              {:>16}\n", with_commas(info.parameters));
  fmt::print("forward FLOPs a token   {:>16}   on average over a chunk (training: three times that)\n",
             with_commas(std::llround(flops)));
  fmt::print("weights, float32        {:>16}\n", human_bytes(weights));
  fmt::print("training state, float32 {:>16}   (weights, gradients, two moments; activations not counted)\n",
             human_bytes(4 * weights));
  fmt::print("stream state            {:>16}   at a chunk boundary, whatever the length\n",
             human_bytes(static_cast<double>(info.state_bytes_fixed)));
  if (info.state_bytes_a_token > 0)
    fmt::print("stream state, growing   {:>16}   with every token\n",
               human_bytes(static_cast<double>(info.state_bytes_a_token)));
  else
    fmt::print("stream state, at most   {:>16}   with the keys and values of an open chunk\n",
               human_bytes(static_cast<double>(info.state_bytes_full)));
  if (options.tensors)
    for (const auto& [name, tensor] : named_weights(*model))
      fmt::print("  {:<44} {}\n", name, io::shape_text(tensor.sizes()));
}

}  // namespace

void add_inspect(CLI::App& app, Common&) {
  auto* command = app.add_subcommand("inspect", "Parameters, FLOPs per token, memory and state size of a model");
  auto options = std::make_shared<InspectOptions>();
  command
      ->add_option("target", options->target,
                   fmt::format("model folder, run folder, run file, or a preset: {}", fmt::join(preset_names(), ", ")))
      ->required();
  command->add_flag("--tensors", options->tensors, "list every tensor");
  command->add_flag("--json", options->json, "print one JSON object");
  command->callback([options] { run_inspect(*options); });
}

}  // namespace megalodon::apps
