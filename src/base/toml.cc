// The TOML half of configuration: text to tree and back.
#include "base/toml.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "base/utf8.h"

namespace megalodon::config {
namespace {

/// A condition that toml++ takes for granted and that the text does not keep.
struct BrokenAssertion {
  const char* condition;
};

[[noreturn]] void throw_broken(const char* condition) {
  throw BrokenAssertion{condition};
}

}  // namespace
}  // namespace megalodon::config

// Where assertions are off, toml++ has clang take them for granted too: undefined behaviour for texts such as
// "[[[". So they stay on and throw, and toml++ is compiled here with them instead of being linked.
#pragma push_macro("NDEBUG")
#undef NDEBUG
#undef TOML_SHARED_LIB
#undef TOML_HEADER_ONLY
#define TOML_ASSERT(...) ((__VA_ARGS__) ? void() : ::megalodon::config::throw_broken(#__VA_ARGS__))
#include <toml++/toml.h>
#pragma pop_macro("NDEBUG")

namespace megalodon::config {
namespace {

/// May stand in a key without quotes.
bool is_bare(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

// ---- writing

std::string toml_string(const std::string& text) {
  check(is_valid_utf8(text), "[config] a string is not valid UTF-8 and cannot be written as TOML");
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += {'\\', c};
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04X}", byte);
    } else {
      out += c;
    }
  }
  return out + '"';
}

/// Shortest text that reads back as the same double, and as a float.
std::string toml_float(double value) {
  std::string text = fmt::format("{}", value);
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

}  // namespace

std::string toml_key(const std::string& key) {
  return !key.empty() && std::all_of(key.begin(), key.end(), is_bare) ? key : toml_string(key);
}

std::string toml_value(const Tree& value) {
  std::vector<std::string> parts;
  switch (value.type()) {
    case Tree::value_t::string:
      return toml_string(value.get_ref<const std::string&>());
    case Tree::value_t::number_float:
      return toml_float(value.get<double>());
    case Tree::value_t::number_unsigned:
      check(value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX), "[config] {} is too large for TOML",
            value.get<uint64_t>());
      return value.dump();
    case Tree::value_t::number_integer:
    case Tree::value_t::boolean:
      return value.dump();
    case Tree::value_t::array:
      for (const Tree& item : value) parts.push_back(toml_value(item));
      return fmt::format("[{}]", fmt::join(parts, ", "));
    case Tree::value_t::object:
      for (const auto& [key, item] : value.items()) {
        if (!item.is_null()) parts.push_back(fmt::format("{} = {}", toml_key(key), toml_value(item)));
      }
      return parts.empty() ? "{}" : fmt::format("{{ {} }}", fmt::join(parts, ", "));
    default:
      fail("[config] TOML has no null: leave the key out");
  }
}

namespace {

/// Whatever follows a [section] line belongs to that section, so only the tables behind the last plain value can get
/// one; earlier tables are written inline, which keeps the order of keys.
void append_table(const Tree& table, const std::string& path, std::string& out) {
  size_t first_section = 0, position = 0;
  for (const Tree& value : table) {
    ++position;
    if (!value.is_object()) first_section = position;
  }
  position = 0;
  for (const auto& [key, value] : table.items()) {
    const bool is_section = position++ >= first_section;
    if (value.is_null()) continue;  // says the same as an absent key
    if (!is_section) {
      out += fmt::format("{} = {}\n", toml_key(key), toml_value(value));
      continue;
    }
    const std::string section = path.empty() ? toml_key(key) : path + "." + toml_key(key);
    out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section);
    append_table(value, section, out);
  }
}

// ---- reading

/// Refuses what toml++ 3.3 must not see. It bounds the nesting of values at 256 but not the parts of a dotted key, each
/// of which nests a table, and its destructor recurses: a key of 200,000 parts overflows the stack before there is a
/// tree to look at. And it has undefined behaviour where it asks whether a character beyond ASCII is white space, which
/// it does outside strings and comments and after a backslash that ends a line. And behind a date it goes back over the
/// underscores that it skipped, at most 127 characters, in functions that may not throw.
class Guard {
 public:
  Guard(std::string_view text, std::string_view source) : text_(text), source_(source) {}

  void run() {
    if (text_.starts_with("\xef\xbb\xbf")) at_ = 3;  // a byte order mark
    while (at_ < text_.size()) {
      const char c = text_[at_];
      if (c == '"' || c == '\'' || c == '[' || c == '{') demand_beginning();
      follow(c);
      if (c == '"' || c == '\'') {
        skip_string(c);
      } else if (c == '#') {
        at_ = std::min(text_.find('\n', at_), text_.size());
      } else {
        look_at(c);
        ++at_;
      }
    }
  }

 private:
  static bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

  void look_at(char c) {
    demand(is_ascii(c), "characters beyond ASCII belong in quotes or comments");
    demand((underscores_ += c == '_') <= kMaxUnderscores, "a name or number has too many underscores");
    if (c == '.') {
      demand(++parts_ <= kMaxParts, "a key has too many parts");
    } else if (!is_bare(c) && c != ' ' && c != '\t') {
      parts_ = 1, underscores_ = 0;
    }
  }

  /// Strings, lists and tables begin a line or a value, or a part of a key: in the middle of a name or number toml++
  /// may not see them as such, and what looks quoted to us is not to it.
  void demand_beginning() const {
    demand(std::string_view("\n=,[{").find(before_) != std::string_view::npos || (before_ == '.' && in_key_),
           "a quote or bracket in the middle of a name or value");
  }

  /// Keys stand before '=' on a line of their own or in an inline table.
  void follow(char c) {
    if (c == ' ' || c == '\t') return;
    before_ = c;
    if (c == '=') {
      in_key_ = false;
    } else if (c == '\n' && open_.empty()) {
      in_key_ = true;
    } else if ((c == '[' || c == '{') && !in_key_) {  // in_key_: a [section]
      open_ += c;
      in_key_ = c == '{';
    } else if (c == ',') {
      in_key_ = open_.ends_with('{');
    } else if (c == ']' || c == '}') {
      if (!open_.empty()) open_.pop_back();
      in_key_ = false;
    }
  }

  /// To behind the string, or to the end of its line where it does not end.
  void skip_string(char quote) {
    const bool multiline = text_.substr(at_, 3) == std::string(3, quote);
    const std::string_view end = text_.substr(at_, multiline ? 3 : 1);
    for (at_ += end.size(); at_ < text_.size(); ++at_) {
      if (text_[at_] == '\\' && quote == '"') {
        const size_t next = text_.find_first_not_of(" \t\r\n", at_ + 1);
        demand(next == std::string_view::npos || is_ascii(text_[next]), "a character beyond ASCII after a backslash");
        ++at_;
      } else if (text_.substr(at_, end.size()) == end) {
        at_ += end.size();
        return;
      } else if (text_[at_] == '\n' && !multiline) {
        return;
      }
    }
  }

  void demand(bool condition, std::string_view rule) const {
    if (condition) return;
    const auto behind = text_.begin() + static_cast<std::ptrdiff_t>(std::min(at_, text_.size()));
    fail_usage("{}:{}: {}", source_, 1 + std::count(text_.begin(), behind, '\n'), rule);
  }

  static constexpr int kMaxParts = 32, kMaxUnderscores = 100;

  std::string_view text_, source_;
  size_t at_ = 0;
  char before_ = '\n';  // the last character that is no white space
  std::string open_;    // the brackets of values that are open
  bool in_key_ = true;
  int parts_ = 1;        // of the key that may be here
  int underscores_ = 0;  // of the key or value
};

Tree to_tree(const toml::node& node, std::string_view source, int depth);

/// toml++ sorts keys by name; their places in the text bring back the order of the file.
Tree to_tree(const toml::table& table, std::string_view source, int depth) {
  std::vector<std::pair<const toml::key*, const toml::node*>> entries;
  for (const auto& [key, node] : table) entries.emplace_back(&key, &node);
  std::sort(entries.begin(), entries.end(), [](const auto& a, const auto& b) {
    const auto place = [](const auto& entry) {
      const toml::source_position& begin = entry.first->source().begin;
      return std::pair(begin.line, begin.column);
    };
    return place(a) < place(b);
  });
  Tree tree = Tree::object();
  auto& fields = tree.get_ref<Tree::object_t&>();  // appended to: operator[] would search them all for each key
  for (const auto& [key, node] : entries)
    fields.emplace_back(std::string(key->str()), to_tree(*node, source, depth + 1));
  return tree;
}

Tree to_tree(const toml::node& node, std::string_view source, int depth) {
  const toml::source_position& at = node.source().begin;
  if (depth > kJsonDepth) fail_usage("{}:{}:{}: nested deeper than {} levels", source, at.line, at.column, kJsonDepth);
  if (const toml::table* table = node.as_table()) return to_tree(*table, source, depth);
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* integer = node.as_integer()) return integer->get();
  if (const auto* real = node.as_floating_point()) return real->get();
  if (const auto* boolean = node.as_boolean()) return boolean->get();
  if (const toml::array* array = node.as_array()) {
    Tree tree = Tree::array();
    for (const toml::node& item : *array) tree.push_back(to_tree(item, source, depth + 1));
    return tree;
  }
  fail_usage("{}:{}:{}: dates and times are not supported; write a string", source, at.line, at.column);
}

}  // namespace

Tree parse_toml(std::string_view text, std::string_view source) {
  Guard(text, source).run();
  toml::table table;
  try {
    table = toml::parse(text, source);
  } catch (const toml::parse_error& error) {
    const toml::source_position& at = error.source().begin;
    fail_usage("{}:{}:{}: {}", source, at.line, at.column, error.description());
  } catch (const BrokenAssertion& broken) {
    fail_usage("{}: not TOML, which toml++ notices by an assertion: {}", source, broken.condition);
  }
  return to_tree(table, source, 0);
}

std::string to_toml(const Tree& tree) {
  check(tree.is_object(), "[config] only a table can be written as TOML, got {}", tree.type_name());
  std::string out;
  append_table(tree, "", out);
  return out;
}

}  // namespace megalodon::config
