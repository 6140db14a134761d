// Rows of text under headings.
#pragma once

#include <string>
#include <vector>

namespace megalodon::report {

struct Table {
  std::vector<std::string> headings;
  std::vector<std::vector<std::string>> rows;  // each as long as the headings
};

/// RFC 4180, but with plain line ends.
std::string to_csv(const Table& table);
/// For a terminal: the first column to the left, numbers to the right.
std::string to_text(const Table& table);
std::string to_html(const Table& table);

/// As text of an HTML document, also between the quotes of an attribute.
std::string escape_html(std::string_view text);

}  // namespace megalodon::report
