// Tables. The first byte chooses between columns by comma and by tab, and whether fields may stand in quotes. Rows that
// are accepted, written down again with every field in quotes, must be the same rows.
#include "data/table_reader.h"

#include <unistd.h>

#include <fstream>

#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

using Rows = std::vector<std::vector<std::string>>;

Rows read(const fs::path& path, bool quotes, std::string_view content) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << content;
  data::TableReader table(path, quotes);
  Rows rows;
  while (const auto* row = table.next()) {
    fuzz::require(!row->empty() && row->size() == (rows.empty() ? *row : rows.front()).size());
    rows.push_back(*row);
  }
  fuzz::require(table.position() <= content.size());
  return rows;
}

std::string in_quotes(const Rows& rows, char separator) {
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      if (i > 0) text += separator;
      text += '"';
      for (const char c : row[i]) text += c == '"' ? std::string("\"\"") : std::string(1, c);
      text += '"';
    }
    text += '\n';
  }
  return text;
}

/// A line's end is read as one line feed.
bool holds_line_ends_of_two(const Rows& rows) {
  for (const auto& row : rows)
    for (const std::string& field : row)
      if (field.find("\r\n") != field.npos) return true;
  return false;
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  if (size == 0) return 0;
  const bool commas = (data[0] & 1) != 0, quotes = (data[0] & 2) != 0;
  const fs::path path = fs::temp_directory_path() / fmt::format("table_fuzz_{}.{}", getpid(), commas ? "csv" : "tsv");
  Rows rows, again;
  if (fuzz::accepts([&] { rows = read(path, quotes, fuzz::text_of(data + 1, size - 1)); }) &&
      !holds_line_ends_of_two(rows)) {
    const std::string text = in_quotes(rows, commas ? ',' : '\t');
    if (fuzz::accepts([&] { again = read(path, /*quotes=*/true, text); }))  // it may look like a tar archive by now
      fuzz::require(again == rows);
    else
      fuzz::require(text.find("ustar") != text.npos);
  }
  fs::remove(path);
  return 0;
}
