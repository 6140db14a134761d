#include "base/json.h"

#include <set>
#include <string>
#include <vector>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon {
namespace {

using Json = nlohmann::json;

/// Sees the events of the parser and builds nothing, so that a hostile file costs no memory.
class Checker final : public nlohmann::json_sax<Json> {
 public:
  Checker(std::string_view source, int depth, size_t most_keys)
      : source_(source), depth_(static_cast<size_t>(depth)), most_keys_(most_keys) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(size_t) override { return open(); }
  bool end_array() override { return close(); }
  bool key(string_t& key) override {
    check(keys_.back().size() < most_keys_, "[{}] more than {} keys in one object", source_, most_keys_);
    check(keys_.back().insert(key).second, "[{}] the key \"{}\" appears twice in one object", source_, printable(key));
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    fail("[{}] byte {}: not JSON: {}", source_, position, printable(error.what()));
  }

 private:
  bool open() {
    check(keys_.size() < depth_, "[{}] arrays and objects nest more than {} deep", source_, depth_);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  std::string_view source_;
  size_t depth_, most_keys_;
  std::vector<std::set<std::string>> keys_;  // of every open array (none) and object
};

}  // namespace

void check_json(std::string_view text, std::string_view source, int depth, size_t most_keys) {
  // The library takes a zero byte for the end and would leave what follows unread.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    fail("[{}] byte {}: not JSON: a zero byte", source, zero);
  }
  Checker checker(source, depth, most_keys);
  Json::sax_parse(text, &checker);
}

}  // namespace megalodon
