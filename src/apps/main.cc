// megalodon: train, evaluate, generate. Errors go to stderr as one line; exit code 2 for a command line or run file
// that cannot be understood, 1 for any other failure.
#include <fmt/format.h>

#include <cstdio>
#include <string_view>

#include "apps/commands.h"
#include "base/check.h"
#include "base/compat.h"

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

int run(int argc, char** argv) {
  using namespace megalodon::apps;
  CLI::App app("Train, evaluate and stream Megalodon language models.", "megalodon");
  app.require_subcommand(1);
  app.set_version_flag("--version", version());
  Common common;
  add_threads(app, common);
  app.fallthrough();
  add_train(app, common);
  add_generate(app, common);
  add_eval(app, common);
  add_data(app, common);
  add_convert(app, common);
  add_inspect(app, common);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {  // --help, --version
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return report(fmt::format("{} (try --help)", error.what()), 2);
  }
  return common.exit_code;
}

}  // namespace

int main(int argc, char** argv) {
  try {
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
