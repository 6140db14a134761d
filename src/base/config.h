// Configuration: one visit() per struct names, documents, parses, prints and serialises every field, so help, run
// files, overrides and saved configs cannot drift apart.
//
//   struct OptimizerConfig {
//     double lr = 1e-3;
//     void visit(config::Visitor& v) { v.field("lr", lr, "peak learning rate"); }
//   };
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace megalodon::config {

/// Run files (TOML), config.json and saved configs are all this tree; the order of keys is kept.
using Tree = nlohmann::ordered_json;

/// Dotted key -> text, as given on the command line.
using Overrides = std::map<std::string, std::string>;

class Visitor {
 public:
  virtual ~Visitor() = default;
  virtual void field(const char* name, bool& value, const char* help) = 0;
  virtual void field(const char* name, int64_t& value, const char* help) = 0;
  virtual void field(const char* name, double& value, const char* help) = 0;
  virtual void field(const char* name, std::string& value, const char* help) = 0;
  virtual void field(const char* name, std::vector<std::string>& value, const char* help) = 0;
  virtual void begin_section(const char* name, const char* help) = 0;
  virtual void end_section() = 0;

  template <class Section>
  void section(const char* name, Section& value, const char* help) {
    begin_section(name, help);
    value.visit(*this);
    end_section();
  }
};

/// Calls visit() of whatever is configured.
using Visit = std::function<void(Visitor&)>;

/// Fills the visited fields from a tree and from overrides (which win). Fields that appear in neither keep their value;
/// null keeps it too. Throws UsageError naming `source` and the dotted key for a wrong type, a number that does not fit
/// or an unknown key (with the nearest known one).
void read(const Visit& visit, const Tree& tree, const Overrides& overrides, std::string_view source);

/// The tree of every visited field.
Tree write(const Visit& visit);

/// One line per field: dotted key, default, help; sections headed by theirs.
std::string help(const Visit& visit);

/// Parses a TOML document; throws UsageError with file, line and column.
Tree parse_toml(std::string_view text, std::string_view source);

/// The tree as a TOML document that parse_toml() reads back.
std::string to_toml(const Tree& tree);

/// Reads "--a.b=value" and "--a.b value" arguments; throws UsageError for anything else.
Overrides parse_overrides(const std::vector<std::string>& arguments);

/// The candidate nearest to `key` by edit distance, or "" where none is near.
std::string nearest(std::string_view key, const std::vector<std::string>& candidates);

template <class Struct>
void read(Struct& target, const Tree& tree, const Overrides& overrides, std::string_view source) {
  read(Visit([&](Visitor& v) { target.visit(v); }), tree, overrides, source);
}
/// By value: one visit() both reads and writes and so cannot be const. The second parameter only postpones the need for
/// the complete Tree to where this is called.
template <class Struct, class Result = Tree>
Result write(Struct source) {
  Result (*write_visited)(const Visit&) = &write;
  return write_visited([&](Visitor& v) { source.visit(v); });
}

}  // namespace megalodon::config
