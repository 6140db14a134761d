#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "data/token_report.h"

namespace megalodon::apps {
namespace {

struct InfoOptions {
  std::string prefix, tokenizer;
  int64_t show = 0, show_tokens = 64;
  bool json = false;
};

/// The one that is named, or that the file beside the tokens names; null where neither is to be had.
std::unique_ptr<data::Tokenizer> find_tokenizer(const data::TokenFile& file, const std::string& name) {
  if (!name.empty()) return data::make_tokenizer(name);
  if (file.tokenizer().is_null()) return nullptr;
  try {
    return data::make_tokenizer(file.tokenizer(), file.prefix().parent_path());
  } catch (const Error&) {
    return nullptr;  // its file is elsewhere
  }
}

void run_info(const InfoOptions& options) {
  const data::TokenFile file(options.prefix);
  const auto tokenizer = options.show > 0 ? find_tokenizer(file, options.tokenizer) : nullptr;
  if (tokenizer != nullptr) data::check_tokenizer(file, *tokenizer);
  Progress scan("scan", "bytes");
  const auto report = data::describe(
      file, options.show, options.show_tokens, tokenizer.get(),
      [&](uint64_t done, uint64_t total) { scan.update(static_cast<int64_t>(done), static_cast<int64_t>(total)); });
  scan.finish();
  if (options.json) {
    fmt::print("{}\n", data::to_json(report).dump(2));
  } else {
    fmt::print("{}", data::to_text(report));
  }
}

}  // namespace

void add_data_info(CLI::App& data_command) {
  auto* command = data_command.add_subcommand("info", "Describe a .bin/.idx pair, ours or Megatron's");
  auto options = std::make_shared<InfoOptions>();
  command->add_option("prefix", options->prefix, "prefix of the pair")->required();
  command->add_option("--show", options->show, "show the beginnings of so many documents")
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("--show-tokens", options->show_tokens, "tokens of each that are shown")
      ->check(at_least(0))
      ->capture_default_str();
  command->add_option("--tokenizer", options->tokenizer,
                      "to decode them: bytes, or a path; default: the one that the pair names, where it is to be had");
  command->add_flag("--json", options->json, "as JSON");
  command->callback([options] { run_info(*options); });
}

}  // namespace megalodon::apps
