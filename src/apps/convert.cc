#include <fmt/format.h>

#include "apps/commands.h"
#include "base/check.h"
#include "data/tokenizer.h"
#include "models/hub.h"
#include "models/published.h"

namespace megalodon::apps {
namespace {

struct ConvertOptions {
  std::string source, target;
  std::string tokenizer = "none";
  bool force = false;
};

void import_with_tokenizer(const ConvertOptions& options) {
  const auto import = is_published(options.source) ? import_published : import_hub;
  if (options.tokenizer == "none") return import(options.source, options.target, {{"type", "none"}}, {});
  const auto tokenizer = data::make_tokenizer(options.tokenizer);
  std::vector<TextPart> files;
  for (auto& [name, text] : tokenizer->files()) files.push_back({name, text});
  import(options.source, options.target, tokenizer->describe(), files);
}

void run_convert(const ConvertOptions& options) {
  check(fs::is_directory(options.source), "[convert] {}: no such folder", options.source);
  check_model_target("convert", options.target, options.force);
  const bool hub = is_hub(options.source), import = hub || is_published(options.source);
  if (import) {
    import_with_tokenizer(options);
  } else {
    export_published(options.source, options.target);
  }
  fmt::print("{} -> {} ({})\n", options.source, options.target,
             hub      ? "Hugging Face folder to model folder"
             : import ? "published checkpoint to model folder"
                      : "model folder to published checkpoint");
}

}  // namespace

void add_convert(CLI::App& app, Common&) {
  auto* command = app.add_subcommand("convert",
                                     "Published checkpoint folder (consolidated.pth) to model folder, or back; Hugging "
                                     "Face folder of a Llama or MPT model to model folder");
  auto options = std::make_shared<ConvertOptions>();
  command->add_option("source", options->source, "folder to read")->required();
  command->add_option("target", options->target, "folder to write")->required();
  command
      ->add_option(
          "--tokenizer", options->tokenizer,
          fmt::format("what a published checkpoint's tokens are: none where it is not known, {}", kTokenizerHelp))
      ->capture_default_str();
  command->add_flag("--force", options->force, "replace the target if it is a model");
  command->callback([options] { run_convert(*options); });
}

}  // namespace megalodon::apps
