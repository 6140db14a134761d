#include <fmt/format.h>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/progress.h"

namespace megalodon::apps {
namespace {

void add_get(CLI::App& data_command) {
  auto* command = data_command.add_subcommand(
      "get", "Fetch and prepare a known corpus: gcide (Webster's dictionary, from Debian's dict-gcide package)");
  struct Options {
    std::string name, output, source = data::kGcideSource;
  };
  auto options = std::make_shared<Options>();
  command->add_option("name", options->name, "gcide")->required();
  command->add_option("--output", options->output, "folder for train, valid, test; default: corpora/NAME");
  command->add_option("--source", options->source, "the dictionary file")->capture_default_str();
  command->callback([options] {
    if (options->name != "gcide") fail_usage("[data get] unknown corpus \"{}\"; known: gcide", options->name);
    const std::string folder = options->output.empty() ? "corpora/" + options->name : options->output;
    Progress progress("gcide", "bytes");
    const auto result =
        data::get_gcide(folder, options->source, [&](uint64_t done, uint64_t total) { progress.update(done, total); });
    progress.finish();
    print_parts(result, folder);
  });
}

}  // namespace

void print_parts(const data::PrepareResult& result, const std::string& output) {
  for (const auto& part : result.parts)
    fmt::print("{}: {} documents, {} tokens\n", part.name.empty() ? output : output + "/" + part.name,
               with_commas(part.documents), with_commas(part.tokens));
}

void add_data(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("data", "Prepare, fetch and describe token data");
  command->require_subcommand(1);
  add_data_prepare(*command, common);
  add_get(*command);
  add_data_tokenize(*command);
  add_data_info(*command);
}

}  // namespace megalodon::apps
