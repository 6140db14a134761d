#include <fmt/format.h>

#include <memory>
#include <string>

#include "apps/data_commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "data/get.h"
#include "data/tokenizer.h"
#include "train/signals.h"

namespace megalodon::apps {
namespace {

constexpr const char* kHelp =
    "Download, verify, unpack and prepare a known data set. Text sets (gcide, enwik8, text8, wikitext-103, "
    "pg19-sample) become token files train, valid and test in the output folder; lra, speech-commands and cifar-10 "
    "sets "
    "of examples for classifiers, each in a folder of its own there; the files of archives are kept in OUTPUT/raw, "
    "where "
    "scrolls is no more than that. What an interrupted download leaves is "
    "continued by the same command; proxies are taken from http_proxy, https_proxy, all_proxy and no_proxy.";

struct GetOptions {
  std::string name, output, from, catalog, tokenizer = "bytes";
  bool list = false;
  data::Downloader::Options network;
};

/// Draws a line for each phase of the work, and ends the work at a signal.
class Phases {
 public:
  void update(std::string_view label, uint64_t done, uint64_t total) {
    begin(label, done);
    const double rate = static_cast<double>(done - std::min(first_, done)) / std::max(since_.seconds(), 1e-3) * 1e-6;
    show(done, total, fmt::format("{:.1f} MB/s", rate));
  }
  void update(std::string_view label, uint64_t done, uint64_t total, int64_t examples) {
    begin(label, done);
    show(done, total, fmt::format("{} examples", with_commas(examples)));
  }
  void note(const std::string& line) {
    if (progress_ != nullptr) progress_->finish();
    fmt::print(stderr, "{}\n", line);
  }
  void finish() { progress_.reset(); }

 private:
  void begin(std::string_view label, uint64_t done) {
    throw_if_stopping();
    if (progress_ != nullptr && label == label_) return;
    label_ = label;
    progress_ = std::make_unique<Progress>(label_, "bytes");
    since_.restart();
    first_ = done;
  }
  void show(uint64_t done, uint64_t total, const std::string& detail) {
    progress_->update(static_cast<int64_t>(done), static_cast<int64_t>(total), detail);
  }

  std::string label_;
  std::unique_ptr<Progress> progress_;
  Stopwatch since_;
  uint64_t first_ = 0;
};

data::GetResult run_get(const data::DataSet& set, const GetOptions& options, const std::string& output,
                        Phases& phases) {
  const auto tokenizer = data::make_tokenizer(options.tokenizer);
  if (set.package == "dict-gcide") {
    const std::string source = options.from.empty() ? data::kGcideSource : options.from;
    const auto show = [&](uint64_t done, uint64_t total) { phases.update("prepare", done, total); };
    return {data::get_gcide(output, *tokenizer, source, show).parts};
  }
  return data::get(set, {output, options.from, options.network}, *tokenizer,
                   {[&](auto label, auto... numbers) { phases.update(label, numbers...); },
                    [&](auto label, auto... numbers) { phases.update(label, numbers...); },
                    [&](const std::string& line) { phases.note(line); }});
}

void run_get(const GetOptions& options, Common& common) {
  const auto catalog = options.catalog.empty() ? data::builtin_catalog()
                                               : data::parse_catalog(read_file(options.catalog), options.catalog);
  if (options.list) return fmt::print("{}", data::list_catalog(catalog));
  if (options.name.empty()) fail_usage("[data get] expected the name of a data set; --list shows those known");
  const data::DataSet& set = data::find_data_set(catalog, options.name);
  const std::string output = options.output.empty() ? "corpora/" + set.name : options.output;
  until_signal(common, "[data get] interrupted; the same command goes on with what is there", [&] {
    Phases phases;
    const data::GetResult result = run_get(set, options, output, phases);
    phases.finish();
    if (result.parts.empty()) fmt::print("{}/raw: the files of {}\n", output, set.name);
    print_parts(result.parts, output);
    for (const auto& [name, made] : result.examples) print_examples(made, output + "/" + name);
    fmt::print("licence: {}\n", set.licence);
  });
}

}  // namespace

void add_data_get(CLI::App& data_command, Common& common) {
  auto* command = data_command.add_subcommand("get", kHelp);
  auto options = std::make_shared<GetOptions>();
  command->add_option("name", options->name, "a set of the catalogue; --list shows them");
  command->add_flag("--list", options->list, "show the catalogue: size, what is verified, licence");
  command->add_option("--output", options->output, "folder; default: corpora/NAME");
  command->add_option("--from", options->from,
                      "use files that are here already: the file, or a folder with all of the set's files; they are "
                      "verified like downloads");
  command->add_option("--tokenizer", options->tokenizer, kTokenizerHelp)->capture_default_str();
  command->add_option("--catalog", options->catalog,
                      "a catalogue of your own (JSON, see docs/data.md) in place of the built-in one");
  command
      ->add_option("--timeout", options->network.stall_seconds, "seconds without a byte until a connection is given up")
      ->check(CLI::Range(1, 3600))
      ->capture_default_str();
  command->callback([options, &common] { run_get(*options, common); });
}

}  // namespace megalodon::apps
