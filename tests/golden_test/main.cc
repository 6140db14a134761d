// Runs reference data: every case of a folder (see README.md of the folder) is computed with our code and compared,
// number by number. One line per failing case, then the counts; the exit code is 0 only if every case passed.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "case.h"
#include "discovery.h"
#include "ops/device.h"

namespace megalodon::golden {
namespace {

struct Options {
  std::string only, device = "cpu", precision = "float32";
  bool list = false, verbose = false;
};

fs::path default_folder() {
  const char* given = std::getenv("MEGALODON_GOLDEN_DIR");
  return given != nullptr && *given != '\0' ? given : MEGALODON_TESTS_DIR "/golden";
}

/// Whatever a case throws is that case's failure. Torch appends a stack trace to its messages; the first line says it
/// all.
void run_guarded(const Check& check, Comparer& comparer) {
  try {
    check.run(comparer);
  } catch (const c10::Error& e) {
    comparer.fail(e.what_without_backtrace());
  } catch (const std::exception& e) {
    comparer.fail(e.what());
  }
}

std::string first_line(const std::string& text) {
  return text.substr(0, text.find('\n'));
}

int run(const Options& options) {
  target().device = ops::parse_device(options.device);
  if (options.precision == "bfloat16") target().precision = nn::Precision::kBfloat16;
  int64_t ran = 0, failed = 0;
  for (const Check& check : find_checks(default_folder())) {
    if (check.name.find(options.only) == std::string::npos) continue;
    ++ran;
    if (options.list) {
      fmt::print("{}  {}\n", check.name, check.kind);
      continue;
    }
    Comparer comparer;
    run_guarded(check, comparer);
    failed += !comparer.passed();
    const std::string line = fmt::format("{}{}: {}", check.name, check.kind.empty() ? "" : " (" + check.kind + ")",
                                         first_line(comparer.summary()));
    if (!comparer.passed())
      fmt::print("FAIL {}\n", line);
    else if (options.verbose)
      fmt::print("ok   {}\n", line);
    for (const std::string& note : comparer.notes()) fmt::print("note {}: {}\n", check.name, note);
    std::fflush(stdout);
  }
  if (options.list) return 0;
  if (ran == 0) fmt::print(stderr, "golden: no case name contains '{}'; --list shows them\n", options.only);
  fmt::print("golden: {} run, {} passed, {} failed\n", ran, ran - failed, failed);
  return failed == 0 && ran > 0 ? 0 : 1;
}

}  // namespace
}  // namespace megalodon::golden

int main(int argc, char** argv) {
  megalodon::golden::Options options;
  CLI::App app(
      "Compares this build with reference data: MEGALODON_GOLDEN_DIR=<folder> golden_test\n"
      "Without MEGALODON_GOLDEN_DIR, with the data carried in " MEGALODON_TESTS_DIR "/golden.");
  app.add_option("--device", options.device, "what computes: cpu, cuda or cuda:N")->capture_default_str();
  app.add_option("--precision", options.precision,
                 "of the models' matrix products; with bfloat16 numbers must agree to a few percent")
      ->check(CLI::IsMember({"float32", "bfloat16"}))
      ->capture_default_str();
  app.add_flag("--list", options.list, "list the cases and their kinds, run nothing");
  app.add_option("--only", options.only, "run the cases whose name contains this")->option_text("SUBSTRING");
  app.add_flag("--verbose", options.verbose, "a line for each case that passes too");
  CLI11_PARSE(app, argc, argv);
  try {
    return megalodon::golden::run(options);
  } catch (const std::exception& e) {
    fmt::print(stderr, "golden_test: {}\n", e.what());
    return 1;
  }
}
