#include "data/jsonl.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "base/utf8.h"

namespace megalodon::data {
namespace {

constexpr int kDepth = 256;
constexpr size_t kReasonBytes = 160;  // the parser's message quotes a token, however long

/// Picks the one string while the parser goes by, and builds nothing else.
class FieldPicker final : public nlohmann::json_sax<nlohmann::json> {
 public:
  FieldPicker(std::string_view field, JsonlText& result) : field_(field), result_(result) {}

  bool null() override { return value("null"); }
  bool boolean(bool) override { return value("a truth value"); }
  bool number_integer(number_integer_t) override { return value("a number"); }
  bool number_unsigned(number_unsigned_t) override { return value("a number"); }
  bool number_float(number_float_t, const string_t&) override { return value("a number"); }
  bool binary(binary_t&) override { return value("binary data"); }
  bool string(string_t& text) override {
    if (!wanted_) return value("a string");
    result_.text.swap(text);
    wanted_ = false;
    return true;
  }
  bool start_object(size_t) override { return (depth_ == 0 || value("an object")) && open(); }
  bool start_array(size_t) override { return value("an array") && open(); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    wanted_ = depth_ == 1 && name == field_;
    if (!wanted_) return true;
    if (found_) return refuse(fmt::format("the field \"{}\" is there twice", field_));
    return found_ = true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const std::string_view message = error.what();
    const size_t begin = message.find("] ");
    return refuse(
        fmt::format("not JSON at byte {}: {}", position,
                    printable(begin == std::string_view::npos ? message : message.substr(begin + 2), kReasonBytes)));
  }
  bool found() const { return found_; }

 private:
  bool refuse(std::string reason) {
    result_.error = std::move(reason);
    return false;
  }
  /// A value that is not the text.
  bool value(const char* what) {
    if (depth_ == 0) return refuse(fmt::format("expected a JSON object, got {}", what));
    return !wanted_ || refuse(fmt::format("expected a string in the field \"{}\", got {}", field_, what));
  }
  bool open() { return ++depth_ <= kDepth || refuse(fmt::format("arrays and objects nest deeper than {}", kDepth)); }
  bool close() {
    --depth_;
    return true;
  }

  std::string_view field_;
  JsonlText& result_;
  int depth_ = 0;
  bool wanted_ = false, found_ = false;
};

}  // namespace

JsonlText parse_jsonl_line(std::string_view line, std::string_view field) {
  JsonlText result;
  if (line.find_first_not_of(" \t\r") == std::string_view::npos) {
    result.error = "the line is empty";
  } else if (const size_t at = line.find('\0'); at != std::string_view::npos) {
    result.error = fmt::format("not JSON at byte {}: a NUL byte", at);  // where the parser would stop and be content
  } else {
    FieldPicker picker(field, result);
    if (nlohmann::json::sax_parse(line.data(), line.data() + line.size(), &picker) && !picker.found()) {
      result.error = fmt::format("the field \"{}\" is missing", printable(field, kReasonBytes));
    }
  }
  if (!result.error.empty()) result.text.clear();
  return result;
}

}  // namespace megalodon::data
