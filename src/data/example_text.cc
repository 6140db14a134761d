#include <fmt/ranges.h>

#include <algorithm>

#include "base/check.h"
#include "base/utf8.h"
#include "data/example_sources.h"
#include "data/table_reader.h"
#include "data/text_set_writer.h"

namespace megalodon::data {
namespace {

/// A column by its number, from 0; none for a name.
std::optional<size_t> column_number(const std::string& column) {
  if (column.empty() || column.size() > 6 || column.find_first_not_of("0123456789") != column.npos) return std::nullopt;
  if (column.find_first_not_of('0') == column.npos) fail_usage("[data examples] columns count from 1, got {}", column);
  return std::stoul(column) - 1;
}

/// The rows of all tables, in order.
class TextSource {
 public:
  explicit TextSource(const TextExamples& options) : options_(options) {
    if (options.text.empty() || options.text.size() > 2)
      fail_usage("[data examples] expected one column of text, or two of pairs, got {}", options.text.size());
    if (std::any_of(options.drop.begin(), options.drop.end(), [](char c) { return static_cast<uint8_t>(c) > 0x7F; }))
      fail_usage("[data examples] the characters to drop must be ASCII, got \"{}\"", printable(options.drop));
  }

  /// Calls use(label, texts) for each example of a table, and report(bytes of it that are done).
  template <class Use>
  void read(const fs::path& path, const std::function<void(uint64_t)>& report, const Use& use) {
    TableReader table(path, options_.quotes);
    bool at_start = true;
    while (const auto* row = table.next()) {
      if (at_start) find_columns(*row, table);
      const bool is_header = at_start && has_header();
      at_start = false;
      if (is_header) continue;
      const std::string& label = (*row)[columns_.front()];
      check(!label.empty(), "[data examples] {}: the label is empty", table.where());
      texts_.clear();
      for (size_t i = 1; i < columns_.size(); ++i) texts_.push_back(without_dropped((*row)[columns_[i]]));
      use(label, texts_);
      report(table.position());
    }
  }

 private:
  bool has_header() const {
    const auto named = [](const std::string& column) { return !column_number(column); };
    return options_.header || named(options_.label) || std::any_of(options_.text.begin(), options_.text.end(), named);
  }

  void find_columns(const std::vector<std::string>& first, const TableReader& table) {
    columns_.clear();
    std::vector<std::string> wanted = options_.text;
    wanted.insert(wanted.begin(), options_.label);
    for (const std::string& column : wanted) {
      size_t at = 0;
      if (const auto number = column_number(column)) {
        at = *number;
      } else {
        at = static_cast<size_t>(std::find(first.begin(), first.end(), column) - first.begin());
      }
      check(at < first.size(), "[data examples] {}: expected a column {}, got {} columns: {}", table.where(), column,
            first.size(), printable(fmt::format("{}", fmt::join(first, ", "))));
      columns_.push_back(at);
    }
  }

  std::string without_dropped(std::string text) const {
    if (!options_.drop.empty()) std::erase_if(text, [&](char c) { return options_.drop.find(c) != std::string::npos; });
    return text;
  }

  const TextExamples& options_;
  std::vector<size_t> columns_;  // that of the label, then those of the texts
  std::vector<std::string> texts_;
};

/// Those of train's texts.
WordCounter count_words(const ExampleSetOptions& set, std::vector<PartInput> inputs, TextSource& source,
                        const ExampleProgress& progress) {
  std::erase_if(inputs, [](const PartInput& input) { return input.part != 0; });
  TrainWordCounter counter(set);
  for_each_file(inputs, nullptr, progress, [&](const PartInput& input, const auto& report) {
    source.read(input.path, report,
                [&](const std::string& label, const std::vector<std::string>& texts) { counter.add(label, texts); });
  });
  return counter.words();
}

}  // namespace

ExampleSetResult make_examples(const ExampleSetOptions& set, const TextExamples& options,
                               const ExampleProgress& progress) {
  const std::vector<PartInput> inputs = part_inputs(set);
  TextSource source(options);
  const bool lists_words = options.tokenizer == TextSetWriter::kWords;
  TextSetWriter writer(set, options.tokenizer,
                       lists_words ? count_words(set, inputs, source, progress) : WordCounter());
  for_each_file(inputs, &writer.examples(), progress, [&](const PartInput& input, const auto& report) {
    source.read(input.path, report, [&](const std::string& label, const std::vector<std::string>& texts) {
      writer.add(input.part, label, texts);
    });
  });
  return writer.finish();
}

}  // namespace megalodon::data
