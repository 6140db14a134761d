#include <fmt/format.h>

#include "apps/commands.h"
#include "base/check.h"
#include "models/published.h"

namespace megalodon::apps {
namespace {

struct ConvertOptions {
  std::string source, target;
  bool force = false;
};

void run_convert(const ConvertOptions& options) {
  check(fs::is_directory(options.source), "[convert] {}: no such folder", options.source);
  check(options.force || !fs::exists(options.target), "[convert] {} exists; give --force to replace it",
        options.target);
  const bool import = is_published(options.source);
  (import ? import_published : export_published)(options.source, options.target);
  fmt::print("{} -> {} ({})\n", options.source, options.target,
             import ? "published checkpoint to model folder" : "model folder to published checkpoint");
}

}  // namespace

void add_convert(CLI::App& app, Common&) {
  auto* command =
      app.add_subcommand("convert", "Published checkpoint folder (consolidated.pth) to model folder, or back");
  auto options = std::make_shared<ConvertOptions>();
  command->add_option("source", options->source, "folder to read")->required();
  command->add_option("target", options->target, "folder to write")->required();
  command->add_flag("--force", options->force, "replace the target if it exists");
  command->callback([options] { run_convert(*options); });
}

}  // namespace megalodon::apps
