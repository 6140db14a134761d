#include "data/table_reader.h"

#include "base/check.h"

namespace megalodon::data {
namespace {

constexpr size_t kLongestLine = size_t{64} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

bool is_csv(const fs::path& path) {
  std::string_view name(path.native());
  const std::string_view suffix = suffix_of(format_of(name).compression);
  if (name.ends_with(suffix)) name.remove_suffix(suffix.size());
  return name.ends_with(".csv") || name.ends_with(".CSV");
}

/// As lines, whatever its name says.
std::vector<InputFile> as_lines(const fs::path& path) {
  check(fs::is_regular_file(path), "[data examples] '{}' is not a file", path.string());
  FileFormat format = format_of(path.filename().string());
  check(format.layout != Layout::kTar, "[data examples] '{}' is an archive, expected a table; unpack it",
        path.string());
  format.layout = Layout::kText;
  return {{path, format, fs::file_size(path)}};
}

}  // namespace

TableReader::TableReader(const fs::path& path, bool quotes)
    : reader_(as_lines(path), {.separator = "\n", .longest = kLongestLine}),
      path_(path.string()),
      separator_(is_csv(path) ? ',' : '\t'),
      quotes_(quotes || is_csv(path)) {}

std::string TableReader::where() const {
  return fmt::format("'{}', line {}", path_, first_line_);
}

std::optional<std::string_view> TableReader::next_line() {
  while (!block_ || next_record_ == block_->records.size()) {
    block_ = reader_.next();
    next_record_ = 0;
    if (!block_) return std::nullopt;
    position_ = block_->position;
  }
  const Record& record = block_->records[next_record_++];
  line_ = record.number;
  check(!record.too_long, "[data examples] '{}', line {}: expected at most {} bytes", path_, line_, kLongestLine);
  std::string_view line = std::string_view(block_->text).substr(record.begin, record.size);
  if (line.ends_with('\r')) line.remove_suffix(1);
  if (line_ == 1 && line.starts_with(kByteOrderMark)) line.remove_prefix(kByteOrderMark.size());
  return line;
}

const std::vector<std::string>* TableReader::next() {
  const auto line = next_line();
  if (!line) return nullptr;
  first_line_ = line_;
  fields_.clear();
  if (quotes_) {
    split_quoted(*line);
  } else {
    split_plain(*line);
  }
  if (columns_ == 0) columns_ = fields_.size();
  check(fields_.size() == columns_, "[data examples] {}: expected {} columns as in the first line, got {}", where(),
        columns_, fields_.size());
  return &fields_;
}

void TableReader::split_plain(std::string_view line) {
  size_t end = 0;
  while ((end = line.find(separator_)) != line.npos) {
    fields_.emplace_back(line.substr(0, end));
    line.remove_prefix(end + 1);
  }
  fields_.emplace_back(line);
}

/// `line` is the row's first; where a field in quotes goes on behind it, more are read.
void TableReader::split_quoted(std::string_view line) {
  while (true) {
    std::string& field = fields_.emplace_back();
    if (line.starts_with('"')) {
      line.remove_prefix(1);
      while (true) {
        const size_t quote = line.find('"');
        field += line.substr(0, quote);
        if (quote == line.npos) {
          const auto more = next_line();
          check(more && field.size() <= kLongestLine, "[data examples] {}: a field's quotes do not close", where());
          field += '\n';
          line = *more;
        } else {
          line.remove_prefix(quote + 1);
          if (!line.starts_with('"')) break;
          field += '"';
          line.remove_prefix(1);
        }
      }
      check(line.empty() || line.front() == separator_, "[data examples] {}: expected column {} to end with its quotes",
            where(), fields_.size());
    } else {
      const size_t end = std::min(line.find(separator_), line.size());
      field = line.substr(0, end);
      line.remove_prefix(end);
    }
    if (line.empty()) return;
    line.remove_prefix(1);
  }
}

}  // namespace megalodon::data
