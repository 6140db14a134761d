#include <fmt/format.h>

#include "apps/commands.h"
#include "base/check.h"
#include "data/tokenizer.h"
#include "models/fixed_model.h"

namespace megalodon::apps {
namespace {

struct QuantizeOptions {
  std::string source, target, type;
  bool force = false;
};

/// The model's parts and those of its tokenizer, if it has one.
FolderParts quantized_parts(const fs::path& folder, const std::string& type) {
  refuse_quantized(folder, load_config(folder));
  const LoadedModel loaded = load_fixed_model(folder, ops::fixed_type(type));
  FolderParts parts = fixed_model_parts(*loaded.model, loaded.tokenizer);
  if (loaded.tokenizer.value("type", "none") == "none") return parts;
  for (auto& [name, text] : data::make_tokenizer(loaded.tokenizer, folder)->files())
    parts.texts.push_back({name, std::move(text)});
  return parts;
}

void run_quantize(const QuantizeOptions& options) {
  check_model_target("quantize", options.target, options.force);
  with_model_folder(options.source, [&](const fs::path& folder) {
    if (fs::exists(options.target) && fs::equivalent(folder, options.target))
      fail("[quantize] {} is the source itself, which could not be trained any more; name another folder",
           options.target);
    return 0;
  });
  const FolderParts parts =
      with_model_folder(options.source, [&](const fs::path& folder) { return quantized_parts(folder, options.type); });
  uint64_t bytes = 0;
  write_folder_atomically(options.target, [&](const fs::path& folder) {
    const std::vector<FileSum> files = write_parts(parts, folder);
    for (const FileSum& file : files) bytes += file.bytes;
    write_manifest(folder, files);
  });
  fmt::print("{} -> {} (matrices as {}, {})\n", options.source, options.target, options.type,
             human_bytes(static_cast<double>(bytes)));
}

}  // namespace

void add_quantize(CLI::App& app, Common& common) {
  auto* command =
      app.add_subcommand("quantize", "Model folder to one whose matrices have fewer bits, to be generated from alone");
  auto options = std::make_shared<QuantizeOptions>();
  command->footer(
      "Matrices of linear layers are stored as --type of generate, eval and bench makes them, to the bit, and are used "
      "where they lie in the file; embedding, norms and moving averages are stored as float32. Such a folder can be "
      "neither trained nor converted.");
  command->add_option("source", options->source, "model folder, or a run folder (its latest checkpoint)")->required();
  command->add_option("target", options->target, "folder to write")->required();
  command->add_option("--type", options->type, "of the matrices: bfloat16 (bf16), q8 (8.5 bits a weight) or q4 (5)")
      ->required()
      ->transform(CLI::Transformer(std::map<std::string, std::string>{{"bf16", "bfloat16"}}))
      ->check(CLI::IsMember({"bfloat16", "q8", "q4"}));
  command->add_flag("--force", options->force, "replace the target if it is a model");
  add_threads(*command, common);
  command->callback([options, &common] {
    use_threads(common.threads);
    run_quantize(*options);
  });
}

}  // namespace megalodon::apps
