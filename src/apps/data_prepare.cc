#include <fmt/format.h>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/process.h"
#include "base/progress.h"
#include "train/signals.h"

namespace megalodon::apps {
namespace {

constexpr const char* kFooter =
    "What an input is follows from its name: .txt and other names are text, .jsonl, .ndjson and .json hold one JSON "
    "object a\n"
    "line, .tar holds such files; behind each .gz, .zst, .xz, .bz2 or .lz4. Folders are searched for .txt, .jsonl, "
    ".ndjson\n"
    "and .tar files. The output depends on inputs and options alone, bit for bit, not on --threads.";

struct PrepareCommand {
  data::PrepareOptions prepare;
  std::vector<std::string> inputs;
  std::string output, tokenizer = "bytes", bad_lines = "stop";
  int64_t longest_mib = 64;
};

void add_document_options(CLI::App& command, PrepareCommand& all) {
  data::PrepareOptions& options = all.prepare;
  command.add_option("--separator", options.separator,
                     "text between documents of one text file; empty: one document a file");
  command.add_option("--field", options.field, "field of a JSON line that holds the text")->capture_default_str();
  command
      .add_option(
          "--bad-lines", all.bad_lines,
          "stop or skip: at lines that are no JSON object with the text, or too long, stop with an error, or skip "
          "and count them")
      ->check(CLI::IsMember({"stop", "skip"}))
      ->capture_default_str();
  command.add_flag("--dedupe", options.dedupe,
                   "drop documents whose text came before (by XXH3 of 128 bits; about 40 bytes of memory a document)");
  command.add_flag(
      "--shuffle", options.shuffle,
      "put the documents in random order (needs the tokens' size once more on the disk while it runs, and 9 "
      "bytes of memory a document)");
  command.add_flag("--prepend-bos", options.prepend_bos, "begin documents with the tokenizer's token for that");
  command.add_flag("--append-eos", options.append_eos, "end documents with the tokenizer's token for that");
}

void add_split_options(CLI::App& command, data::PrepareOptions& options) {
  command.add_option("--valid", options.valid, "fraction of documents to hold out for validation")
      ->capture_default_str();
  command.add_option("--test", options.test, "fraction of documents to hold out for testing")->capture_default_str();
  command.add_option("--seed", options.seed, "of split and shuffle")->capture_default_str();
}

std::string rate_text(const data::PrepareStatus& status, double seconds) {
  return fmt::format("{:.1f} MB/s of text", seconds > 0 ? static_cast<double>(status.text) / seconds / 1e6 : 0);
}

void print_losses(const data::PrepareResult& result) {
  if (result.abandoned.files > 0) {
    fmt::print("removed: {} temporary files ({}) of a run to this output that was killed\n",
               with_commas(result.abandoned.files), human_bytes(static_cast<double>(result.abandoned.bytes)));
  }
  if (result.bad > 0) {
    fmt::print("left out: {} bad lines\n", with_commas(result.bad));
    for (const std::string& example : result.bad_examples) fmt::print("  {}\n", example);
    if (result.bad > static_cast<int64_t>(result.bad_examples.size())) fmt::print("  …\n");
  }
  if (result.duplicates > 0) fmt::print("left out: {} copies of earlier documents\n", with_commas(result.duplicates));
  if (result.empty > 0) fmt::print("left out: {} documents without text or tokens\n", with_commas(result.empty));
  if (result.skipped_entries > 0) {
    fmt::print("left out: {} files in archives that are neither .txt nor .jsonl\n",
               with_commas(result.skipped_entries));
  }
}

void run_prepare(PrepareCommand& options, int threads) {
  options.prepare.inputs.assign(options.inputs.begin(), options.inputs.end());
  options.prepare.output = options.output;
  options.prepare.longest = static_cast<size_t>(options.longest_mib) << 20;
  options.prepare.threads = threads > 0 ? threads : available_cores();
  options.prepare.bad_lines = options.bad_lines == "skip" ? data::BadLines::kSkip : data::BadLines::kStop;
  const auto tokenizer = data::make_tokenizer(options.tokenizer);
  Progress progress("prepare", "bytes"), shuffling("shuffle", "bytes");
  const Stopwatch watch;
  data::PrepareStatus last;
  const auto result = data::prepare(options.prepare, *tokenizer, [&](const data::PrepareStatus& status) {
    throw_if_stopping();
    const auto done = static_cast<int64_t>(status.done), total = static_cast<int64_t>(status.total);
    if (status.shuffling) {
      if (!last.shuffling) progress.finish();
      shuffling.update(done, total);
    } else {
      progress.update(done, total, rate_text(status, watch.seconds()));
    }
    last = status;
  });
  progress.finish();
  shuffling.finish();
  print_parts(result.parts, options.output);
  print_losses(result);
  fmt::print("{} bytes of text in {}, {}\n", with_commas(static_cast<int64_t>(last.text)),
             format_duration(watch.seconds()), rate_text(last, watch.seconds()));
}

}  // namespace

void add_data_prepare(CLI::App& data_command, Common& common) {
  auto* command = data_command.add_subcommand("prepare", "Texts to Megatron .bin/.idx, documents kept apart");
  auto options = std::make_shared<PrepareCommand>();
  command->footer(kFooter);
  command->add_option("inputs", options->inputs, "files, folders, or patterns in quotes: 'texts/*.jsonl.zst'")
      ->required();
  command
      ->add_option("--output", options->output,
                   "prefix of the .bin/.idx pair; with --valid or --test, a folder of train, valid, test")
      ->required();
  command->add_option("--tokenizer", options->tokenizer, kTokenizerHelp)->capture_default_str();
  add_document_options(*command, *options);
  add_split_options(*command, options->prepare);
  command
      ->add_option(
          "--max-line-mib", options->longest_mib,
          "size in MiB up to which a line is allowed, and a document where the tokenizer needs it whole (bytes do "
          "not)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  add_threads(*command, common);
  command->callback([options, &common] {
    until_signal(common, "[data prepare] interrupted; nothing was written",
                 [&] { run_prepare(*options, common.threads); });
  });
}

}  // namespace megalodon::apps
