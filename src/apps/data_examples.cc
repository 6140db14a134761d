#include <fmt/format.h>
#include <fmt/ranges.h>

#include <charconv>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "base/utf8.h"
#include "data/example_sources.h"
#include "train/signals.h"

namespace megalodon::apps {

void print_examples(const data::ExampleSetResult& result, const std::string& output) {
  for (const auto& part : result.parts)
    fmt::print("{}: {} examples, {} steps\n", part.name.empty() ? output : output + "/" + part.name,
               with_commas(part.examples), with_commas(part.steps));
  fmt::print("classes: {}{}\n", result.classes.count,
             result.classes.names.empty() ? "" : fmt::format(" ({})", fmt::join(result.classes.names, ", ")));
  if (!result.unused.empty())
    fmt::print("classes without examples: {}\n", printable(fmt::format("{}", fmt::join(result.unused, ", "))));
  if (result.abandoned.files > 0)
    fmt::print("removed: {} temporary files of a run to this output that was killed\n",
               with_commas(result.abandoned.files));
  if (result.empty > 0) fmt::print("left out: {} empty examples\n", with_commas(result.empty));
  if (result.others > 0) fmt::print("left out: {} examples of other classes\n", with_commas(result.others));
}

namespace {

constexpr const char* kExamplesFooter =
    "What comes out is for `train` with a classifier. A part is a file PREFIX.safetensors; `data info` describes it.\n"
    "Examples that are empty are left out and counted. The output depends on inputs and options alone, bit for bit.";

/// Options that every source has.
struct SetCommand {
  std::vector<std::string> inputs, valid, test, classes;
  std::string output;
  uint64_t seed = 0;
};

void add_set_options(CLI::App& command, SetCommand& options, const char* inputs, const char* classes) {
  command.footer(kExamplesFooter);
  command.add_option("inputs", options.inputs, inputs)->required();
  command
      .add_option("--output", options.output,
                  "prefix of the file; where there is more than one part, a folder of train, valid, test")
      ->required();
  command
      .add_option("--valid", options.valid,
                  "inputs of the part for validation, with commas between; or the fraction of all examples that are "
                  "drawn for it")
      ->delimiter(',')
      ->allow_extra_args(false);
  command.add_option("--test", options.test, "the same of the part for testing")
      ->delimiter(',')
      ->allow_extra_args(false);
  command.add_option("--seed", options.seed, "of what is drawn")->capture_default_str();
  if (classes != nullptr)
    command.add_option("--classes", options.classes, classes)->delimiter(',')->allow_extra_args(false);
}

/// The fraction that an option gives; nothing where it names inputs.
std::optional<double> fraction_of(const std::vector<std::string>& values) {
  double fraction = 0;
  if (values.size() != 1) return std::nullopt;
  const std::string& text = values.front();
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), fraction);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return fraction;
}

data::ExampleSetOptions set_of(const SetCommand& command) {
  data::ExampleSetOptions set;
  set.output = command.output;
  set.train.assign(command.inputs.begin(), command.inputs.end());
  set.seed = command.seed;
  set.classes = command.classes;
  const auto take = [](const std::vector<std::string>& values, double& fraction, std::vector<fs::path>& inputs) {
    if (const auto given = fraction_of(values)) {
      fraction = *given;
    } else {
      inputs.assign(values.begin(), values.end());
    }
  };
  take(command.valid, set.valid_fraction, set.valid);
  take(command.test, set.test_fraction, set.test);
  return set;
}

void run_examples(const SetCommand& command, const data::ExampleSource& source, const char* unit, Common& common) {
  until_signal(common, "[data examples] interrupted; nothing was written", [&] {
    Progress progress("read", unit);
    const auto show = [&](uint64_t done, uint64_t total, int64_t examples) {
      throw_if_stopping();
      progress.update(static_cast<int64_t>(done), static_cast<int64_t>(total),
                      fmt::format("{} examples", with_commas(examples)));
    };
    const auto result =
        std::visit([&](const auto& kind) { return data::make_examples(set_of(command), kind, show); }, source);
    progress.finish();
    print_examples(result, command.output);
  });
}

void add_tokenizer_option(CLI::App& command, std::string& tokenizer) {
  command
      .add_option("--tokenizer", tokenizer,
                  fmt::format("words (those of the texts to train on, which are listed beside the parts in "
                              "tokenizer.words, or of one file in PREFIX.words), or {}",
                              kTokenizerHelp))
      ->capture_default_str();
}

void add_text(CLI::App& parent, Common& common) {
  struct Options : SetCommand {
    data::TextExamples text;
  };
  auto options = std::make_shared<Options>();
  auto* command = parent.add_subcommand("text", "Rows of tables: columns apart by tabs, of .csv files by commas");
  add_set_options(*command, *options, "tables, also compressed (.gz, .zst, .xz, .bz2, .lz4)",
                  "labels to take, in the order of their numbers; default: all, whole numbers as they are, others in "
                  "the order of the alphabet");
  command->add_option("--label", options->text.label, "column of the label: its name in the first line, or its number")
      ->required();
  command
      ->add_option("--text", options->text.text,
                   "column of the text; two, with a comma between, make an example a pair")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->required();
  command->add_flag("--header", options->text.header,
                    "the first line names the columns (so it does where one is given by name)");
  command->add_flag("--quotes", options->text.quotes, "fields may stand in quotes, as those of .csv files may anyway");
  command->add_option("--drop", options->text.drop, "ASCII characters to leave out of the texts: --drop '()'");
  add_tokenizer_option(*command, options->text.tokenizer);
  command->callback([options, &common] { run_examples(*options, options->text, "bytes", common); });
}

/// For sources of files in folders named as their classes.
void add_folder_options(CLI::App& command, SetCommand& options) {
  add_set_options(command, options, "folders, or .tar archives of such, also compressed",
                  "folders to take, in the order of their numbers; default: all whose names do not begin with _");
}

void add_folders(CLI::App& parent, Common& common) {
  struct Options : SetCommand {
    data::FolderExamples folders;
  };
  auto options = std::make_shared<Options>();
  auto* command = parent.add_subcommand("folders", "Texts in folders named as their classes: .../CLASS/NAME.txt");
  add_folder_options(*command, *options);
  add_tokenizer_option(*command, options->folders.tokenizer);
  command->callback([options, &common] { run_examples(*options, options->folders, "texts", common); });
}

void add_records(CLI::App& parent, Common& common) {
  struct Options : SetCommand {
    data::RecordExamples records;
    std::string rgb;
  };
  auto options = std::make_shared<Options>();
  auto* command =
      parent.add_subcommand("records", "Records of one size, as CIFAR-10 comes: a byte for the label, then the pixels");
  add_set_options(*command, *options, "files, also compressed", "names of the labels 0, 1, ...");
  command->add_option("--pixels", options->records.pixels, "of an image")->capture_default_str();
  command
      ->add_option(
          "--rgb", options->rgb,
          "keep or gray: a pixel is not one byte but three, in planes of red, green and blue, which become the "
          "three numbers of a step, or its gray as TensorFlow computes it")
      ->check(CLI::IsMember({"keep", "gray"}));
  command->callback([options, &common] {
    using Colours = data::RecordExamples::Colours;
    if (!options->rgb.empty()) options->records.colours = options->rgb == "keep" ? Colours::kRgb : Colours::kRgbToGray;
    run_examples(*options, options->records, "bytes", common);
  });
}

void add_audio(CLI::App& parent, Common& common) {
  struct Options : SetCommand {
    data::AudioExamples audio;
  };
  auto options = std::make_shared<Options>();
  auto* command = parent.add_subcommand(
      "audio", "Sounds in folders named as their classes: .../CLASS/NAME.wav of 16 bits and one channel");
  add_folder_options(*command, *options);
  command->add_option("--steps", options->audio.steps, "cut longer sounds, put silence behind shorter ones; 0: neither")
      ->check(at_least(0))
      ->capture_default_str();
  command->footer(
      "Where validation_list.txt and testing_list.txt are there, as in Speech Commands, they are the split unless "
      "--valid or\n--test is given.\n" +
      std::string(kExamplesFooter));
  command->callback([options, &common] { run_examples(*options, options->audio, "sounds", common); });
}

void add_pathfinder(CLI::App& parent, Common& common) {
  auto options = std::make_shared<SetCommand>();
  auto* command = parent.add_subcommand(
      "pathfinder", "The Long Range Arena's images: folders of metadata/N.npy and of the gray PNG that these name");
  add_set_options(*command, *options, "folders, such as lra_release/pathfinder32/curv_contour_length_14", nullptr);
  command->callback([options, &common] { run_examples(*options, data::PathfinderExamples(), "bytes", common); });
}

}  // namespace

void add_data_examples(CLI::App& data_command, Common& common) {
  auto* command = data_command.add_subcommand("examples", "Texts, images or sounds with labels, for classifiers");
  command->require_subcommand(1);
  add_text(*command, common);
  add_folders(*command, common);
  add_records(*command, common);
  add_audio(*command, common);
  add_pathfinder(*command, common);
}

}  // namespace megalodon::apps
