#include <fmt/format.h>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/progress.h"

namespace megalodon::apps {
namespace {

void add_prepare(CLI::App& data_command) {
  auto* command = data_command.add_subcommand("prepare", "Text files to Megatron .bin/.idx, documents kept apart");
  struct Options {
    data::PrepareOptions prepare;
    std::vector<std::string> inputs;
    std::string output, tokenizer = "bytes";
  };
  auto options = std::make_shared<Options>();
  command->add_option("inputs", options->inputs, "text files, or folders of .txt files")->required();
  command
      ->add_option("--output", options->output,
                   "prefix of the .bin/.idx pair; with --valid or --test, a folder of train, valid, test")
      ->required();
  command->add_option("--tokenizer", options->tokenizer, kTokenizerHelp)->capture_default_str();
  command->add_option("--separator", options->prepare.separator,
                      "text between documents of one file; empty: one document a file");
  command->add_option("--valid", options->prepare.valid, "fraction of documents to hold out for validation")
      ->capture_default_str();
  command->add_option("--test", options->prepare.test, "fraction of documents to hold out for testing")
      ->capture_default_str();
  command->add_option("--seed", options->prepare.seed, "of the split")->capture_default_str();
  command->callback([options] {
    options->prepare.inputs.assign(options->inputs.begin(), options->inputs.end());
    options->prepare.output = options->output;
    Progress progress("prepare", "bytes");
    const auto result = data::prepare(options->prepare, *data::make_tokenizer(options->tokenizer),
                                      [&](uint64_t done, uint64_t total) { progress.update(done, total); });
    progress.finish();
    print_parts(result, options->output);
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
  add_prepare(*command);
  add_data_get(*command, common);
  auto* info = command->add_subcommand("info", "Describe a .bin/.idx pair, ours or Megatron's");
  auto prefix = std::make_shared<std::string>();
  info->add_option("prefix", *prefix, "prefix of the pair")->required();
  info->callback([prefix] { fmt::print("{}\n", data::describe(data::TokenFile(*prefix))); });
}

}  // namespace megalodon::apps
