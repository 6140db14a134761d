// The reading half of configuration: values from trees and from the command line into fields.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/check.h"
#include "base/config.h"
#include "base/config_walk.h"
#include "base/toml.h"
#include "base/utf8.h"

namespace megalodon::config {
namespace {

constexpr std::string_view kOnCommandLine = "on the command line";

/// As much of a value as an error message can bear.
std::string excerpt(const Tree& value) {
  constexpr size_t kLongest = 80;
  // JSON has no such numbers; TOML and people do.
  if (value.is_number_float() && !std::isfinite(value.get<double>())) return fmt::format("{}", value.get<double>());
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Tree::error_handler_t::replace);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

/// The value of one field, with what an error must say about it.
struct Value {
  const Tree& tree;
  const std::string& key;
  std::string_view place;  // "in run.toml"

  [[noreturn]] void must_be(std::string_view expected) const {
    fail_usage("{} {} must be {}, got {}", key, place, expected, excerpt(tree));
  }
};

void assign(const Value& value, bool& target) {
  if (!value.tree.is_boolean()) value.must_be("true or false");
  target = value.tree.get<bool>();
}

void assign(const Value& value, int64_t& target) {
  // Doubles hold every integer up to here; 1e6 is welcome where a count is meant, a rounded count is not.
  constexpr double kLargestExact = 9007199254740992.0;
  const Tree& tree = value.tree;
  if (tree.is_number_unsigned() && tree.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    value.must_be("an integer below 2^63");
  } else if (tree.is_number_integer()) {
    target = tree.get<int64_t>();
  } else if (tree.is_number_float() && std::abs(tree.get<double>()) <= kLargestExact &&
             std::trunc(tree.get<double>()) == tree.get<double>()) {
    target = static_cast<int64_t>(tree.get<double>());
  } else {
    value.must_be("an integer");
  }
}

void assign(const Value& value, double& target) {
  if (!value.tree.is_number() || !std::isfinite(value.tree.get<double>())) value.must_be("a finite number");
  target = value.tree.get<double>();
}

void assign(const Value& value, std::string& target) {
  if (!value.tree.is_string()) value.must_be("a string");
  target = value.tree.get<std::string>();
}

void assign(const Value& value, std::vector<std::string>& target) {
  if (value.tree.is_string()) {  // a list of one; "" of none, as on the command line
    target.clear();
    if (const auto text = value.tree.get<std::string>(); !text.empty()) target.push_back(text);
    return;
  }
  const auto is_string = [](const Tree& item) { return item.is_string(); };
  if (!value.tree.is_array() || !std::all_of(value.tree.begin(), value.tree.end(), is_string)) {
    value.must_be("a list of strings");
  }
  target = value.tree.get<std::vector<std::string>>();
}

template <class Number>
bool parse_number(std::string_view text, Number& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  return error == std::errc() && end == text.data() + text.size();
}

// An override's text as the tree value its field expects. Text that cannot be one stays a string, which assign()
// refuses.

Tree from_text(const std::string& text, const bool&) {
  if (text == "true" || text == "false") return text == "true";
  return text;
}

Tree from_text(const std::string& text, const double&) {
  int64_t integer = 0;
  double real = 0;
  if (parse_number(text, integer)) return integer;
  if (parse_number(text, real)) return real;
  return text;
}

Tree from_text(const std::string& text, const int64_t&) {
  return from_text(text, double{});
}

Tree from_text(const std::string& text, const std::string&) {
  return text;
}

Tree from_text(const std::string& text, const std::vector<std::string>&) {
  if (text.starts_with('[')) return parse_toml("list = " + text, "command line").at("list");
  Tree list = Tree::array();
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    list.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return list;
}

class Reader final : public Walk {
 public:
  Reader(const Tree& tree, const Overrides& overrides, std::string_view source)
      : tree_(tree),
        overrides_(overrides),
        place_(fmt::format("in {}", source)),
        nodes_{tree.is_null() ? nullptr : &tree} {
    if (!tree.is_null() && !tree.is_object()) {
      fail_usage("{} must be a table of keys and values, got {}", source, excerpt(tree));
    }
  }

  void field(const char* name, bool& value, const char*) override { take(name, value); }
  void field(const char* name, int64_t& value, const char*) override { take(name, value); }
  void field(const char* name, double& value, const char*) override { take(name, value); }
  void field(const char* name, std::string& value, const char*) override { take(name, value); }
  void field(const char* name, std::vector<std::string>& value, const char*) override { take(name, value); }

  void begin_section(const char* name, const char*) override {
    const bool nameless = std::string_view(name).empty();
    const Tree* node = nameless ? nodes_.back() : child(name);
    enter(name);
    if (!nameless) sections_.insert(prefix());
    if (node && !node->is_object()) Value{*node, prefix(), place_}.must_be("a section");
    nodes_.push_back(node);
  }
  void end_section() override {
    nodes_.pop_back();
    leave();
  }

  void refuse_unknown_keys() const {
    if (!tree_.is_null()) refuse_unknown_keys(tree_, "");
    for (const auto& [key, text] : overrides_) {
      if (!fields_.contains(key)) refuse(key, kOnCommandLine);
    }
  }

 private:
  const Tree* child(const char* name) const {
    if (!nodes_.back()) return nullptr;
    const auto found = nodes_.back()->find(name);
    return found == nodes_.back()->end() || found->is_null() ? nullptr : &*found;
  }

  template <class T>
  void take(const char* name, T& value) {
    const std::string key = dotted(name);
    fields_.insert(key);
    if (const auto text = overrides_.find(key); text != overrides_.end()) {
      take_override(text->second, key, value);
    } else if (const Tree* node = child(name)) {
      assign(Value{*node, key, place_}, value);
    }
  }

  template <class T>
  static void take_override(const std::string& text, const std::string& key, T& value) {
    // The terminal's bytes are anything; a string that is not text could not be written into the run's own file.
    if (!is_valid_utf8(text)) Value{text, key, kOnCommandLine}.must_be("valid UTF-8");
    assign(Value{from_text(text, value), key, kOnCommandLine}, value);
  }

  void refuse_unknown_keys(const Tree& table, const std::string& path) const {
    for (const auto& [name, value] : table.items()) {
      // A name with a dot in it is quoted here, so that it cannot pass for the path of a field.
      const std::string key = path.empty() ? toml_key(name) : path + "." + toml_key(name);
      if (sections_.contains(key)) {
        if (value.is_object()) refuse_unknown_keys(value, key);
      } else if (!fields_.contains(key)) {
        refuse(key, place_);
      }
    }
  }

  [[noreturn]] void refuse(const std::string& key, std::string_view place) const {
    std::vector<std::string> known(fields_.begin(), fields_.end());
    known.insert(known.end(), sections_.begin(), sections_.end());
    const std::string near = nearest(key, known);
    if (near.empty()) fail_usage("unknown key '{}' {}", key, place);
    fail_usage("unknown key '{}' {}; did you mean '{}'?", key, place, near);
  }

  const Tree& tree_;
  const Overrides& overrides_;
  std::string place_;
  std::vector<const Tree*> nodes_;  // the open sections, null where the tree lacks one
  std::set<std::string> fields_, sections_;
};

}  // namespace

void read(const Visit& visit, const Tree& tree, const Overrides& overrides, std::string_view source) {
  Reader reader(tree, overrides, source);
  visit(reader);
  reader.refuse_unknown_keys();
}

Overrides parse_overrides(const std::vector<std::string>& arguments) {
  Overrides overrides;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    const size_t equals = argument.find('=');
    const std::string key = argument.substr(0, equals);
    if (!key.starts_with("--") || key.size() == 2) {
      fail_usage("expected --section.key=value or --section.key value, got '{}'", argument);
    }
    if (equals != std::string::npos) {
      overrides[key.substr(2)] = argument.substr(equals + 1);
    } else if (i + 1 < arguments.size() && !arguments[i + 1].starts_with("--")) {
      overrides[key.substr(2)] = arguments[++i];
    } else {
      fail_usage("{} needs a value: {}=value", key, key);
    }
  }
  return overrides;
}

}  // namespace megalodon::config
