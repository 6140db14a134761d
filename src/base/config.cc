#include "base/config.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "base/config_walk.h"
#include "base/toml.h"

namespace megalodon::config {
namespace {

class Writer final : public Visitor {
 public:
  void field(const char* name, bool& value, const char*) override { put(name, value); }
  void field(const char* name, int64_t& value, const char*) override { put(name, value); }
  void field(const char* name, double& value, const char*) override { put(name, value); }
  void field(const char* name, std::string& value, const char*) override { put(name, value); }
  void field(const char* name, std::vector<std::string>& value, const char*) override { put(name, value); }
  void begin_section(const char* name, const char*) override {
    names_.emplace_back(name);
    trees_.push_back(Tree::object());
  }
  void end_section() override {
    const Tree section = std::move(trees_.back());
    const std::string name = std::move(names_.back());
    trees_.pop_back();
    names_.pop_back();
    if (name.empty()) {
      trees_.back().update(section);
    } else {
      trees_.back()[name] = section;
    }
  }
  Tree take() { return std::move(trees_.front()); }

 private:
  template <class T>
  void put(const char* name, const T& value) {
    trees_.back()[name] = value;
  }
  std::vector<Tree> trees_ = {Tree::object()};
  std::vector<std::string> names_;
};

class Helper final : public Walk {
 public:
  void field(const char* name, bool& value, const char* help) override { add(name, value, help); }
  void field(const char* name, int64_t& value, const char* help) override { add(name, value, help); }
  void field(const char* name, double& value, const char* help) override { add(name, value, help); }
  void field(const char* name, std::string& value, const char* help) override { add(name, value, help); }
  void field(const char* name, std::vector<std::string>& value, const char* help) override { add(name, value, help); }
  void begin_section(const char* name, const char* help) override {
    enter(name);
    lines_.push_back({"", "", *name ? fmt::format("{}: {}", prefix(), help) : help});
  }
  void end_section() override { leave(); }

  std::string text() const {
    constexpr size_t kWidestDefault = 24;  // a longer default pushes its help text aside, not everybody's
    size_t key_width = 0, value_width = 0;
    for (const Line& line : lines_) {
      key_width = std::max(key_width, line.key.size());
      if (line.value.size() <= kWidestDefault) value_width = std::max(value_width, line.value.size());
    }
    std::string out;
    for (const Line& line : lines_) {
      if (line.key.empty()) {
        out += fmt::format("{}{}\n", out.empty() ? "" : "\n", line.help);
      } else {
        out += fmt::format("  {:<{}}  {:<{}}  {}\n", line.key, key_width, line.value, value_width, line.help);
      }
    }
    return out;
  }

 private:
  struct Line {
    std::string key, value, help;  // no key: the head of a section
  };
  template <class T>
  void add(const char* name, const T& value, const char* help) {
    lines_.push_back({dotted(name), toml_value(Tree(value)), help});
  }
  std::vector<Line> lines_;
};

/// Insertions, deletions, substitutions and swaps of neighbours that turn one text into the other.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> before, above, row(b.size() + 1);  // of a's beginnings: distances to b's
  std::iota(row.begin(), row.end(), size_t{0});
  for (size_t i = 0; i < a.size(); ++i) {
    before = std::exchange(above, row);
    row[0] = i + 1;
    for (size_t j = 0; j < b.size(); ++j) {
      row[j + 1] = std::min({above[j] + (a[i] == b[j] ? 0 : 1), row[j] + 1, above[j + 1] + 1});
      if (i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j]) row[j + 1] = std::min(row[j + 1], before[j - 1] + 1);
    }
  }
  return row.back();
}

std::string_view last_part(std::string_view key) {
  return key.substr(key.rfind('.') + 1);
}

}  // namespace

Tree write(const Visit& visit) {
  Writer writer;
  visit(writer);
  return writer.take();
}

std::string help(const Visit& visit) {
  Helper helper;
  visit(helper);
  return helper.text();
}

std::string nearest(std::string_view key, const std::vector<std::string>& candidates) {
  constexpr size_t kLongest = 128;  // no key is longer, and the search takes quadratic time
  if (key.size() > kLongest) return "";
  const size_t near = std::max<size_t>(1, key.size() / 3);
  // "model.dim" is "model.model_dim" rather than "model.z_dim", however near that is spelled.
  const size_t name_at = key.size() - last_part(key).size();
  const std::string_view section = last_part(key.substr(0, name_at == 0 ? 0 : name_at - 1));
  const std::string in_full = fmt::format("{}{}_{}", key.substr(0, name_at), section, last_part(key));
  // The right name in the wrong section, or in none, comes after any near spelling of the whole key.
  constexpr size_t kElsewhere = 1000;
  size_t best = SIZE_MAX;
  std::string found;
  for (const std::string& candidate : candidates) {
    if (candidate == in_full) return candidate;
    const size_t distance = edit_distance(key, candidate);
    if (distance > near && last_part(candidate) != last_part(key)) continue;
    const size_t rank = distance > near ? kElsewhere + distance : distance;
    if (rank < best) {
      best = rank;
      found = candidate;
    }
  }
  return found;
}

}  // namespace megalodon::config
