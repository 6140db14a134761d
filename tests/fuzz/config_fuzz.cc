// Run files (TOML), config.json and overrides. Up to the first zero byte the input is the document, JSON where it
// begins with '{'; each line behind it is an argument of the command line. A document that parses must survive being
// written as TOML; what is read into a struct must survive being written and read again.
#include "base/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

using config::Tree;

struct Section {
  int64_t steps = 1;
  double lr = 0.5;
  bool flag = false;
  void visit(config::Visitor& v) {
    v.field("steps", steps, "a count");
    v.field("lr", lr, "a rate");
    v.field("flag", flag, "a switch");
  }
};

struct Run {
  std::string path = "x";
  std::vector<std::string> mix = {"a"};
  Section a, flat;
  void visit(config::Visitor& v) {
    v.field("path", path, "a path");
    v.field("mix", mix, "names");
    v.section("a", a, "a section");
    v.section("", flat, "one without a level of its own");
  }
};

Run read_run(const Tree& tree, const config::Overrides& overrides) {
  Run run;
  config::read(run, tree, overrides, "fuzz");
  return run;
}

std::vector<std::string> lines_of(std::string_view text) {
  std::vector<std::string> lines;
  while (!text.empty()) {
    const size_t end = std::min(text.find('\n'), text.size());
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return lines;
}

/// What TOML and JSON hold alike.
std::optional<Tree> parse(std::string_view document) {
  Tree tree;
  const bool is_json = document.starts_with('{');
  const bool accepted = fuzz::accepts(
      [&] { tree = is_json ? parse_json<Tree>(document, "fuzz") : config::parse_toml(document, "fuzz"); });
  if (!accepted) return {};
  if (!is_json) fuzz::require(config::parse_toml(config::to_toml(tree), "fuzz").dump() == tree.dump());
  return tree;
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  const std::string_view text = fuzz::text_of(data, size);
  const size_t end = std::min(text.find('\0'), text.size());
  const std::optional<Tree> tree = parse(text.substr(0, end));
  config::Overrides overrides;
  fuzz::accepts([&] { overrides = config::parse_overrides(lines_of(text.substr(std::min(end + 1, text.size())))); });
  Run run;
  if (tree && fuzz::accepts([&] { run = read_run(*tree, overrides); })) {
    const Tree written = config::write(run);
    fuzz::require(config::write(read_run(config::parse_toml(config::to_toml(written), "fuzz"), {})) == written);
  }
  return 0;
}
