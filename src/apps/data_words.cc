#include <fmt/format.h>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/output_folder.h"
#include "base/progress.h"
#include "data/word_list.h"
#include "train/signals.h"

namespace megalodon::apps {
namespace {

constexpr const char* kWordsFooter =
    "Inputs are those of data prepare. For WikiText and Penn Treebank, whose texts have <unk> in them: --eos --unk. "
    "The "
    "most\n"
    "frequent words come first, as the cut-offs of an adaptive vocabulary want them.";

struct WordsCommand {
  data::WordListOptions list;
  std::vector<std::string> inputs;
  std::string output;
};

void run_words(WordsCommand& options) {
  const fs::path output(options.output);
  if (output.extension() != ".words")
    fail_usage("[--output] expected a name that ends in .words, got '{}'", options.output);
  options.list.inputs.assign(options.inputs.begin(), options.inputs.end());
  Progress progress("words", "bytes");
  const data::WordList words = data::list_words(options.list, [&](uint64_t done, uint64_t total) {
    throw_if_stopping();
    progress.update(static_cast<int64_t>(done), static_cast<int64_t>(total));
  });
  progress.finish();
  const OutputFolder folder(output.parent_path());
  write_file_atomically(output, words.file);
  fmt::print("{}: {} words\n", options.output, with_commas(words.listed));
  fmt::print("texts: {} words in {} lines, {} distinct ones; {} are not listed\n", with_commas(words.words),
             with_commas(words.line_ends), with_commas(words.distinct), with_commas(words.left_out));
}

}  // namespace

void add_data_words(CLI::App& data_command, Common& common) {
  auto* command = data_command.add_subcommand("words", "Texts to the list of their words, which is a tokenizer");
  auto options = std::make_shared<WordsCommand>();
  data::WordListOptions& list = options->list;
  command->footer(kWordsFooter);
  command->add_option("inputs", options->inputs, "files, folders, or patterns in quotes: 'texts/*.jsonl.zst'")
      ->required();
  command->add_option("--output", options->output, "the list, NAME.words")->required();
  command->add_option("--field", list.field, "field of a JSON line that holds the text")->capture_default_str();
  command->add_option("--min-count", list.min_count, "leave out words that occur less often")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 62))
      ->capture_default_str();
  command
      ->add_option("--max-words", list.max_words, "list no more than this many, <unk> and <eos> included; 0: no limit")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 62))
      ->capture_default_str();
  command->add_flag("--eos", list.line_end, "list <eos>, which line ends become");
  command->add_flag("--unk", list.unknown, "list <unk>, which words become that are not listed");
  command->callback([options, &common] {
    until_signal(common, "[data words] interrupted; nothing was written", [&] { run_words(*options); });
  });
}

}  // namespace megalodon::apps
