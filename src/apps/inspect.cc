#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/check.h"
#include "models/classifier_folder.h"
#include "models/fixed_model.h"
#include "nn/parameters.h"
#include "train/checkpoint.h"
#include "train/run_config.h"

namespace megalodon::apps {
namespace {

using Json = nlohmann::ordered_json;

struct InspectOptions {
  std::string target;
  bool tensors = false, json = false;
};

/// What is inspected: the configuration of a language model or an encoder, or a classifier.
struct Target {
  std::shared_ptr<const ModelConfig> model;
  std::optional<ClassifierDescription> classifier = {};
  Json stored = Json::object();  // of a folder: what it says besides
};

Target read_folder(const fs::path& folder) {
  Target target;
  if (fs::exists(folder / "trainer.json")) target.stored["step"] = read_trainer_state(folder).step;
  if (read_config_json(folder)["model_type"] == kClassifierType) {
    target.classifier = describe_classifier(folder);
    target.stored["tokenizer"] = target.classifier->tokenizer;
    if (!target.classifier->class_names.empty()) target.stored["classes"] = target.classifier->class_names;
    return target;
  }
  FolderConfig config = load_config(folder);
  target.model = std::move(config.model);
  target.stored["tokenizer"] = config.tokenizer;
  target.stored["matrices"] = type_of_matrices(folder);
  return target;
}

Target read_run_file(const fs::path& path) {
  const RunConfig run = load_run_config(path, {});
  if (!run.train.classifies()) return {run.model->clone()};
  return {nullptr, ClassifierDescription{run.model->clone(), run.classifier, {}}};
}

/// A preset's name, a run file, or a folder with a model.
Target resolve(const std::string& target) {
  for (const Preset& preset : presets())
    if (preset.name == target) return {preset.config};
  if (fs::is_directory(target)) return with_model_folder(target, read_folder);
  if (fs::exists(target)) return read_run_file(target);
  const std::string near = config::nearest(target, preset_names());
  fail_usage("[inspect] {}: no such folder, run file or preset{}; presets: {}", target,
             near.empty() ? "" : fmt::format("; did you mean {}?", near), fmt::join(preset_names(), ", "));
}

void print_configuration(const InspectOptions& options, const Json& tree, const Json& stored) {
  fmt::print("{}\n\n{}\n", options.target, config::to_toml(tree));
  for (const auto& [name, value] : stored.items())
    fmt::print("{:<23} {:>16}\n", name, value.is_string() ? value.get<std::string>() : value.dump());
}

void print_weights(int64_t parameters) {
  const double weights = 4.0 * static_cast<double>(parameters);
  fmt::print("weights, float32        {:>16}\n", human_bytes(weights));
  fmt::print("training state, float32 {:>16}   (weights, gradients, two moments; activations not counted)\n",
             human_bytes(4 * weights));
}

void print_tensors(const NamedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) fmt::print("  {:<44} {}\n", name, io::shape_text(tensor.sizes()));
}

void inspect_model(const InspectOptions& options, const ModelConfig& config, const Json& stored) {
  const auto model = config.build();  // memory is reserved, not touched
  const ModelInfo info = model->info();
  const double flops = info.mean_forward_flops(std::max<int64_t>(info.chunk_size, 1));
  const Json fields = fields_of(config);
  if (options.json) {
    Json tree = {{"architecture", config.architecture()},     {"parameters", info.parameters},
                 {"forward_flops_per_token", flops},          {"state_bytes_fixed", info.state_bytes_fixed},
                 {"state_bytes_full", info.state_bytes_full}, {"state_bytes_a_token", info.state_bytes_a_token}};
    tree.update(stored);
    tree["config"] = fields;
    fmt::print("{}\n", tree.dump());
    return;
  }
  print_configuration(options, fields, stored);
  fmt::print("parameters              {:>16}\n", with_commas(info.parameters));
  fmt::print("forward FLOPs a token   {:>16}   on average over a chunk (training: three times that)\n",
             with_commas(std::llround(flops)));
  print_weights(info.parameters);
  fmt::print("stream state            {:>16}   at a chunk boundary, whatever the length\n",
             human_bytes(static_cast<double>(info.state_bytes_fixed)));
  if (info.state_bytes_a_token > 0)
    fmt::print("stream state, growing   {:>16}   with every token\n",
               human_bytes(static_cast<double>(info.state_bytes_a_token)));
  else
    fmt::print("stream state, at most   {:>16}   with the keys and values of an open chunk\n",
               human_bytes(static_cast<double>(info.state_bytes_full)));
  if (options.tensors) print_tensors(named_weights(*model));
}

/// An encoder, or a classifier around one.
void inspect_network(const InspectOptions& options, const torch::nn::Module& network, const std::string& architecture,
                     const Json& fields, const Json& stored) {
  const int64_t parameters = nn::count_parameters(network);
  if (options.json) {
    Json all = {{"architecture", architecture}, {"parameters", parameters}};
    all.update(stored);
    all["config"] = fields;
    fmt::print("{}\n", all.dump());
    return;
  }
  print_configuration(options, fields, stored);
  fmt::print("parameters              {:>16}\n", with_commas(parameters));
  print_weights(parameters);
  if (options.tensors) print_tensors(named_state(network));
}

void inspect_classifier(const InspectOptions& options, const ClassifierDescription& description, const Json& stored) {
  const Json fields = {{"encoder", fields_of(*description.encoder)},
                       {"classifier", config::write(description.classifier)}};
  inspect_network(options, *description.build(), description.encoder->architecture(), fields, stored);
}

void run_inspect(const InspectOptions& options) {
  const auto [model, classifier, stored] = resolve(options.target);
  if (classifier) return inspect_classifier(options, *classifier, stored);
  if (!model->is_encoder()) return inspect_model(options, *model, stored);
  inspect_network(options, *model->build_encoder(), model->architecture(), fields_of(*model), {{"kind", "an encoder"}});
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
