// One line of JSON: an object, of which one field holds a text.
#pragma once

#include <string>
#include <string_view>

namespace megalodon::data {

struct JsonlText {
  std::string text;
  std::string error;  // why there is no text; "" where there is one
};

/// Takes the string under `field` out of a line (without its end; a carriage return and a byte order mark are white
/// space). Never throws for what a line holds. Refused are: an empty line, what is not JSON or not UTF-8 (NUL bytes,
/// NaN, single surrogates, numbers beyond a double), anything but one object, nesting deeper than 256, and a field that
/// is missing, no string, or there twice.
JsonlText parse_jsonl_line(std::string_view line, std::string_view field);

}  // namespace megalodon::data
