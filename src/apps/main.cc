// megalodon: train, evaluate, generate. Errors go to stderr as one line; exit code 2 for a command line or run file
// that cannot be understood, 1 for any other failure.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include "apps/commands.h"
#include "base/check.h"
#include "base/compat.h"
#include "base/process.h"
#include "ops/cpu_isa.h"

namespace {

int report(std::string_view message, int code) {
  fmt::print(stderr, "megalodon: {}\n", message);
  return code;
}

/// libtorch appends a C++ stack to its messages; people want the first line.
std::string_view first_line(std::string_view text) {
  return text.substr(0, text.find('\n'));
}

std::string version() {
  return fmt::format("megalodon {} (libtorch {})", MEGALODON_VERSION, TORCH_VERSION);
}

/// The command that was named, as far as it is one: "data prepare".
const CLI::App* innermost(const CLI::App* command) {
  while (!command->get_subcommands().empty()) command = command->get_subcommands().front();
  return command;
}

std::vector<std::string> commands_of(const CLI::App* command) {
  std::vector<std::string> names;
  for (const CLI::App* sub : command->get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  return names;
}

std::vector<std::string> options_of(const CLI::App* command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command->get_options())
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
  return names;
}

/// What is wrong with a command line. CLI11 names what is missing even where that is there, but misspelt.
std::string explain(const CLI::App& app, const CLI::ParseError& error) {
  const CLI::App* command = innermost(&app);
  const std::vector<std::string> commands = commands_of(command), unknown = app.remaining(/*recurse=*/true);
  if (command->get_allow_extras() || (unknown.empty() && commands.empty())) return error.what();
  if (unknown.empty()) return fmt::format("expected a command: {}", fmt::join(commands, ", "));
  const std::string& word = unknown.front();
  const bool is_option = word.starts_with('-');
  if (!is_option && commands.empty()) return fmt::format("did not expect '{}'", word);
  const std::string near =
      megalodon::config::nearest(word.substr(0, word.find('=')), is_option ? options_of(command) : commands);
  return fmt::format("unknown {} '{}'{}", is_option ? "option" : "command", word,
                     near.empty() ? (is_option ? "" : fmt::format("; there are {}", fmt::join(commands, ", ")))
                                  : fmt::format("; did you mean '{}'?", near));
}

int run(int argc, char** argv) {
  using namespace megalodon::apps;
  CLI::App app("Train, evaluate and stream Megalodon language models.", "megalodon");
  app.require_subcommand(1);
  app.set_version_flag("--version", version());
  Common common;
  add_threads(app, common);
  app.fallthrough();
  add_train(app, common);
  add_compare(app, common);
  add_generate(app, common);
  add_chat(app, common);
  add_eval(app, common);
  add_data(app, common);
  add_convert(app, common);
  add_quantize(app, common);
  add_inspect(app, common);
  add_bench(app, common);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return report(fmt::format("{} (try --help)", explain(app, error)), 2);
  }
  return common.exit_code;
}

int run_or_report(int argc, char** argv) {
  try {
    megalodon::ops::pin_cpu_isa();
    return run(argc, argv);
  } catch (const megalodon::UsageError& error) {
    return report(error.what(), 2);
  } catch (const c10::Error& error) {
    return report(first_line(error.what_without_backtrace()), 1);
  } catch (const std::bad_alloc&) {
    return report("out of memory", 1);
  } catch (const std::exception& error) {
    return report(error.what(), 1);
  }
}

}  // namespace

int main(int argc, char** argv) {
  megalodon::keep_freed_memory();
  megalodon::leave(run_or_report(argc, argv));
}
