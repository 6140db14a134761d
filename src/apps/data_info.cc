#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "data/example_report.h"
#include "data/token_report.h"

namespace megalodon::apps {
namespace {

struct InfoOptions {
  std::string prefix, tokenizer;
  int64_t show = 0, show_tokens = 64;
  bool json = false;
};

/// The one that is named, or that made the data at `path`; null where neither is to be had.
std::unique_ptr<data::Tokenizer> find_tokenizer(const nlohmann::ordered_json& description, const fs::path& path,
                                                const InfoOptions& options) {
  if (options.show == 0) return nullptr;
  std::unique_ptr<data::Tokenizer> tokenizer;
  if (!options.tokenizer.empty()) {
    tokenizer = data::make_tokenizer(options.tokenizer);
  } else if (!description.is_null()) {
    try {
      tokenizer = data::make_tokenizer(description, path.parent_path());
    } catch (const Error&) {
      return nullptr;  // its file is elsewhere
    }
  }
  if (tokenizer != nullptr) data::check_tokenizer(description, path, *tokenizer);
  return tokenizer;
}

/// Where there is no .bin either, a .safetensors file is what is meant, whatever is wrong with it.
bool means_examples(const fs::path& prefix) {
  const bool alone =
      fs::exists(data::example_prefix(prefix) += ".safetensors") && !fs::exists(data::token_prefix(prefix) += ".bin");
  return alone || data::is_example_file(prefix);
}

template <class Report>
void print_report(const Report& report, bool json) {
  fmt::print("{}", json ? data::to_json(report).dump(2) + "\n" : data::to_text(report));
}

void run_info(const InfoOptions& options) {
  if (means_examples(options.prefix)) {
    const data::ExampleFile file(options.prefix);
    const auto tokenizer = find_tokenizer(file.tokenizer(), file.path(), options);
    return print_report(data::describe(file, options.show, options.show_tokens, tokenizer.get()), options.json);
  }
  const data::TokenFile file(options.prefix);
  const auto tokenizer = find_tokenizer(file.tokenizer(), file.prefix(), options);
  Progress scan("scan", "bytes");
  const auto report = data::describe(
      file, options.show, options.show_tokens, tokenizer.get(),
      [&](uint64_t done, uint64_t total) { scan.update(static_cast<int64_t>(done), static_cast<int64_t>(total)); });
  scan.finish();
  print_report(report, options.json);
}

}  // namespace

void add_data_info(CLI::App& data_command) {
  auto* command = data_command.add_subcommand(
      "info", "Describe a .bin/.idx pair, ours or Megatron's, or a .safetensors file of examples");
  auto options = std::make_shared<InfoOptions>();
  command->add_option("prefix", options->prefix, "prefix of the pair, or of the examples' file")->required();
  command->add_option("--show", options->show, "show the beginnings of so many documents or examples")
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("--show-tokens", options->show_tokens, "tokens, or steps of examples, of each that are shown")
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("--tokenizer", options->tokenizer,
                      "to decode them: bytes, or a path; default: the one that the data name, where it is to be had");
  command->add_flag("--json", options->json, "as JSON");
  command->callback([options] { run_info(*options); });
}

}  // namespace megalodon::apps
