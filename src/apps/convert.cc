#include "models/convert.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>

#include "apps/commands.h"
#include "base/check.h"
#include "data/tokenizer.h"

namespace megalodon::apps {
namespace {

struct ConvertArguments {
  std::string source, target;
  std::string tokenizer = "none";
  double shard_gb = static_cast<double>(io::kMaxShardBytes) / 1e9;
  ConvertOptions options;
  bool force = false, no_check = false;
};

void print_difference(const char* what, const LogitDifference& difference) {
  fmt::print(
      "{}: largest difference {:.3g}, {:.3g} of the largest logit; the same likeliest token at {} of {} positions\n",
      what, difference.largest, difference.relative(), difference.same_top, difference.positions);
}

void print_report(const ConvertArguments& arguments, const Conversion& done) {
  fmt::print("{} -> {} ({} to {})\n", arguments.source, arguments.target, done.from->description, done.to->description);
  fmt::print("{} tensors ({}), {} parameters\n", done.tensors, done.dtypes, with_commas(done.parameters));
  if (done.from->other_function != nullptr) fmt::print("not the source's function: {}\n", done.from->other_function);
  if (!done.checked) return fmt::print("not checked\n");
  print_difference("logits of the target, read again, and of the source", *done.checked);
  if (done.stored)
    print_difference("logits of the target and those stored beside the source", *done.stored);
  else
    fmt::print("no logits stored: not compared with the source's own numbers\n");
}

/// Of --tokenizer, or of a folder of ours.
std::optional<TokenizerParts> tokenizer_parts(const ConvertArguments& arguments) {
  const auto parts_of = [](const data::Tokenizer& tokenizer) {
    TokenizerParts parts{tokenizer.describe()};
    const data::SpecialTokens special = tokenizer.special_tokens();
    const std::array ids = {special.bos, special.eos, special.pad};  // in the order of kSpecialTokens
    for (size_t i = 0; i < ids.size(); ++i)
      if (ids[i]) parts.description[kSpecialTokens[i]] = *ids[i];
    for (auto& [name, text] : tokenizer.files()) parts.files.push_back({name, text});
    return parts;
  };
  if (arguments.tokenizer != "none") return parts_of(*data::make_tokenizer(arguments.tokenizer));
  if (&format_of(arguments.source) != &model_formats().front()) return {};
  return with_model_folder(arguments.source, [&](const fs::path& folder) -> std::optional<TokenizerParts> {
    const nlohmann::ordered_json description = load_config(folder).tokenizer;
    if (description.is_object() && description.value("type", nlohmann::ordered_json("none")) == "none") return {};
    return parts_of(*data::make_tokenizer(description, folder));
  });
}

void run_convert(ConvertArguments& arguments) {
  check(fs::exists(arguments.source), "[convert] {}: no such folder", arguments.source);
  check_model_target("convert", arguments.target, arguments.force);
  ConvertOptions& options = arguments.options;
  if (!(arguments.shard_gb > 0 && arguments.shard_gb <= 1e6))
    fail_usage("[--shard-gb] expected a positive number, got {}", arguments.shard_gb);
  options.max_shard_bytes = static_cast<uint64_t>(std::ceil(arguments.shard_gb * 1e9));
  options.check = !arguments.no_check;
  options.tokenizer = tokenizer_parts(arguments);
  print_report(arguments, convert(arguments.source, arguments.target, options));
}

}  // namespace

void add_convert(CLI::App& app, Common&) {
  auto* command = app.add_subcommand(
      "convert",
      "Between model folders and those of others: published checkpoints (consolidated.pth), Hugging Face's Llama and "
      "MPT, the ports of Megalodon to JAX and Hugging Face. A folder of another becomes ours, ours the form that its "
      "model has. The target is read again and compared before it appears.");
  auto arguments = std::make_shared<ConvertArguments>();
  ConvertOptions& options = arguments->options;
  command->add_option("source", arguments->source, "folder to read; a JAX checkpoint may be its file")->required();
  command->add_option("target", arguments->target, "folder to write")->required();
  std::vector<std::string> formats;
  for (const ModelFormat& format : model_formats())
    if (format.write != nullptr) formats.push_back(format.name);
  command->add_option("--format", options.format,
                      fmt::format("of the target: {}. Without it: ours of another's folder, of a Megalodon published, "
                                  "of a Transformer hub",
                                  fmt::join(formats, ", ")));
  command
      ->add_option("--tokenizer", arguments->tokenizer,
                   fmt::format("what the tokens are, where the source does not say: none, {}", kTokenizerHelp))
      ->capture_default_str();
  command->add_option("--shard-gb", arguments->shard_gb, "largest size of a safetensors file")->capture_default_str();
  command->add_flag("--accept-other-norm", options.accept_other_norm,
                    "read the Hugging Face port of Megalodon, whose timestep norm is another: a model to train on, "
                    "which does not compute what it did there");
  command->add_flag("--no-check", arguments->no_check, "do not read the target again to compare logits");
  command->add_flag("--force", arguments->force, "replace the target if it is a model");
  command->callback([arguments] { run_convert(*arguments); });
}

}  // namespace megalodon::apps
