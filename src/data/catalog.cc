#include "data/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "base/check.h"
#include "base/json.h"
#include "data/catalog_table.h"
#include "data/split.h"
#include "io/bytes.h"

namespace megalodon::data {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kMaxFileBytes = int64_t{1} << 50;  // what no file here comes near

/// One object of the catalogue; `where` names it in messages.
class Fields {
 public:
  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    check(object.is_object(), "[catalogue] {}: expected an object, got {}", where_, object.dump());
  }
  Fields(const Json& object, std::string where, const std::vector<std::string_view>& known)
      : Fields(object, std::move(where)) {
    for (const auto& [key, value] : object.items())
      check(std::find(known.begin(), known.end(), key) != known.end(), "[catalogue] {}: unknown key \"{}\"; known: {}",
            where_, key, fmt::join(known, ", "));
  }

  const std::string& where() const { return where_; }
  bool has(const char* key) const { return object_.contains(key); }
  const Json& at(const char* key) const {
    check(has(key), "[catalogue] {}: \"{}\" is missing", where_, key);
    return object_.at(key);
  }

  std::string text(const char* key) const {
    const Json& value = at(key);
    check(value.is_string(), "[catalogue] {}: \"{}\" must be text, got {}", where_, key, value.dump());
    return value.get<std::string>();
  }
  std::string text(const char* key, const char* otherwise) const { return has(key) ? text(key) : otherwise; }

  int64_t number(const char* key, int64_t smallest, int64_t largest = kMaxFileBytes) const {
    const Json& value = at(key);
    const bool fits = value.is_number_unsigned() && value.get<uint64_t>() <= static_cast<uint64_t>(largest);
    check(fits && value.get<int64_t>() >= smallest,
          "[catalogue] {}: \"{}\" must be a whole number from {} to {}, got {}", where_, key, smallest, largest,
          value.dump());
    return value.get<int64_t>();
  }

  bool flag(const char* key) const {
    if (!has(key)) return false;
    const Json& value = at(key);
    check(value.is_boolean(), "[catalogue] {}: \"{}\" must be true or false, got {}", where_, key, value.dump());
    return value.get<bool>();
  }

  std::vector<std::string> texts(const char* key) const {
    const Json& value = at(key);
    check(value.is_array() && !value.empty(), "[catalogue] {}: \"{}\" must be a list that is not empty", where_, key);
    std::vector<std::string> found;
    for (const Json& item : value) {
      check(item.is_string(), "[catalogue] {}: \"{}\" must list texts, got {}", where_, key, item.dump());
      found.push_back(item.get<std::string>());
    }
    return found;
  }

 private:
  const Json& object_;
  std::string where_;
};

/// A relative path that stays below its folder and hides nothing: letters, digits and ._- between single slashes, no
/// part beginning with a dot. Names are made into paths and URLs, so the rule is narrow.
bool is_plain_path(std::string_view path, bool slashes) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  };
  char before = '/';
  for (const char c : path) {
    if (c == '/' ? !slashes || before == '/' : !plain(c)) return false;
    if (c == '.' && before == '/') return false;
    before = c;
  }
  return before != '/' && path.size() <= 200;
}

void check_plain_path(const Fields& fields, const char* key, std::string_view path) {
  check(is_plain_path(path, true),
        "[catalogue] {}: \"{}\" must be a relative path of letters, digits and ._- with no part beginning with a dot, "
        "got \"{}\"",
        fields.where(), key, path);
}

std::string plain_path(const Fields& fields, const char* key) {
  std::string path = fields.text(key);
  check_plain_path(fields, key, path);
  return path;
}

void check_url(const Fields& fields, const std::string& url) {
  const bool clean = std::all_of(url.begin(), url.end(), [](char c) { return c > ' ' && c < 127; });
  check(clean && (url.starts_with("https://") || url.starts_with("http://")),
        "[catalogue] {}: expected a URL that begins with https:// or http://, got \"{}\"", fields.where(), url);
}

std::string hash(const Fields& fields, const char* key, size_t digits) {
  const std::string text = fields.text(key, "");
  const bool hexadecimal = text.find_first_not_of("0123456789abcdef") == std::string::npos;
  check(text.empty() || (hexadecimal && text.size() == digits),
        "[catalogue] {}: \"{}\" must be {} lower-case hexadecimal digits, got \"{}\"", fields.where(), key, digits,
        text);
  return text;
}

RemoteFile parse_file(const Json& object, const std::string& where, const std::vector<std::string>& mirrors) {
  const Fields fields(object, where, {"path", "urls", "size", "max_bytes", "sha256", "md5"});
  RemoteFile file;
  file.path = plain_path(fields, "path");
  if (fields.has("urls")) file.urls = fields.texts("urls");
  for (const std::string& mirror : mirrors) file.urls.push_back(mirror + file.path);
  check(!file.urls.empty(), "[catalogue] {}: needs \"urls\", or the set \"mirrors\"", where);
  for (const std::string& url : file.urls) check_url(fields, url);
  if (fields.has("size")) {
    file.size = file.max_bytes = fields.number("size", 0);
  } else {
    file.max_bytes = fields.number("max_bytes", 1);
  }
  file.sha256 = hash(fields, "sha256", 64);
  file.md5 = hash(fields, "md5", 32);
  return file;
}

TextPart parse_part(const std::string& name, const Json& object, const std::string& where) {
  const Fields fields(object, fmt::format("{}, part \"{}\"", where, name), {"source", "begin", "end", "documents"});
  check(is_plain_path(name, false), "[catalogue] {}: not a name for a part", fields.where());
  TextPart part;
  part.name = name;
  part.source = plain_path(fields, "source");
  if (fields.has("begin")) part.begin = fields.number("begin", 0);
  if (fields.has("end")) part.end = fields.number("end", part.begin + 1);
  const std::string documents = fields.text("documents", "files");
  check(documents == "files" || documents == "wikitext",
        "[catalogue] {}: \"documents\" must be \"files\" or \"wikitext\", got \"{}\"", fields.where(), documents);
  if (documents == "wikitext") part.documents = TextPart::Documents::kWikitext;
  return part;
}

/// One relative path, or a list of such.
std::vector<fs::path> plain_paths(const Fields& fields, const char* key) {
  std::vector<fs::path> paths;
  for (const std::string& text : fields.at(key).is_string() ? std::vector{fields.text(key)} : fields.texts(key)) {
    check_plain_path(fields, key, text);
    paths.emplace_back(text);
  }
  return paths;
}

std::string example_tokenizer(const Fields& fields) {
  std::string tokenizer = fields.text("tokenizer", "bytes");
  check(tokenizer == "bytes" || tokenizer == "words",
        "[catalogue] {}: \"tokenizer\" must be \"bytes\" or \"words\", got \"{}\"", fields.where(), tokenizer);
  return tokenizer;
}

/// A column's name, or its number.
void check_column(const Fields& fields, const char* key, std::string_view column) {
  check(column.find_first_not_of('0') != column.npos,
        "[catalogue] {}: \"{}\" must be the name of a column or its number from 1, got \"{}\"", fields.where(), key,
        column);
}

TextExamples parse_text_examples(const Fields& fields) {
  TextExamples source{.label = fields.text("label"),
                      .text = fields.texts("text"),
                      .header = fields.flag("header"),
                      .quotes = fields.flag("quotes"),
                      .drop = fields.text("drop", ""),
                      .tokenizer = example_tokenizer(fields)};
  check(source.text.size() <= 2, "[catalogue] {}: \"text\" must list one column, or two of pairs, got {}",
        fields.where(), source.text.size());
  check_column(fields, "label", source.label);
  for (const std::string& column : source.text) check_column(fields, "text", column);
  return source;
}

RecordExamples parse_record_examples(const Fields& fields) {
  RecordExamples source;
  if (fields.has("pixels")) source.pixels = fields.number("pixels", 1);
  if (!fields.has("rgb")) return source;
  const std::string rgb = fields.text("rgb");
  check(rgb == "keep" || rgb == "gray", "[catalogue] {}: \"rgb\" must be \"keep\" or \"gray\", got \"{}\"",
        fields.where(), rgb);
  source.colours = rgb == "keep" ? RecordExamples::Colours::kRgb : RecordExamples::Colours::kRgbToGray;
  return source;
}

/// What examples are made of: its name, the keys of its own, and how they are read.
struct ExampleKind {
  std::string_view name;
  std::vector<std::string_view> keys;
  ExampleSource (*parse)(const Fields& fields);
};

const ExampleKind& find_kind(const Fields& fields) {
  static const ExampleKind kinds[] = {
      {"text",
       {"classes", "label", "text", "header", "quotes", "drop", "tokenizer"},
       [](const Fields& f) -> ExampleSource { return parse_text_examples(f); }},
      {"folders",
       {"classes", "tokenizer"},
       [](const Fields& f) -> ExampleSource { return FolderExamples{example_tokenizer(f)}; }},
      {"records",
       {"classes", "pixels", "rgb"},
       [](const Fields& f) -> ExampleSource { return parse_record_examples(f); }},
      {"audio",
       {"classes", "steps"},
       [](const Fields& f) -> ExampleSource { return AudioExamples{f.has("steps") ? f.number("steps", 0) : 0}; }},
      {"pathfinder", {}, [](const Fields&) -> ExampleSource { return PathfinderExamples(); }},
  };
  const std::string name = fields.text("kind");
  std::vector<std::string_view> names;
  for (const ExampleKind& kind : kinds) {
    if (kind.name == name) return kind;
    names.push_back(kind.name);
  }
  fail("[catalogue] {}: \"kind\" must be one of {}; got \"{}\"", fields.where(), fmt::join(names, ", "), name);
}

/// Which inputs, or which fraction of train's examples, are valid and test.
void parse_held_out(const Fields& fields, ExampleSetOptions& set) {
  const auto parse = [&](const char* key, std::vector<fs::path>& inputs, double& fraction) {
    if (!fields.has(key)) return;
    if (fields.at(key).is_number()) {
      fraction = fields.at(key).get<double>();
    } else {
      inputs = plain_paths(fields, key);
    }
  };
  parse("valid", set.valid, set.valid_fraction);
  parse("test", set.test, set.test_fraction);
  io::with_context(fmt::format("[catalogue] {}", fields.where()),
                   [&] { check_fractions(set.valid_fraction, set.test_fraction); });
}

ExampleRecipe parse_recipe(const std::string& name, const Json& object, const std::string& outer) {
  const std::string where = fmt::format("{}, examples \"{}\"", outer, name);
  const ExampleKind& kind = find_kind(Fields(object, where));
  std::vector<std::string_view> known = {"kind", "train", "valid", "test"};
  known.insert(known.end(), kind.keys.begin(), kind.keys.end());
  const Fields fields(object, where, known);
  check(is_plain_path(name, false) && name != kDownloads && name != kUnpacked,
        "[catalogue] {}: not a name for a folder beside {} and {}", where, kDownloads, kUnpacked);
  ExampleRecipe recipe;
  recipe.name = name;
  recipe.set.train = plain_paths(fields, "train");
  parse_held_out(fields, recipe.set);
  if (fields.has("classes")) recipe.set.classes = fields.texts("classes");
  recipe.source = kind.parse(fields);
  return recipe;
}

void parse_files(const Fields& fields, DataSet& set) {
  std::vector<std::string> mirrors;
  if (fields.has("mirrors")) mirrors = fields.texts("mirrors");
  const Json& files = fields.at("files");
  check(files.is_array() && !files.empty(), "[catalogue] {}: \"files\" must be a list that is not empty",
        fields.where());
  std::vector<std::string> paths;
  for (const Json& file : files) {
    set.files.push_back(parse_file(file, fmt::format("{}, file {}", fields.where(), set.files.size() + 1), mirrors));
    paths.push_back(set.files.back().path);
  }
  std::sort(paths.begin(), paths.end());
  const auto twice = std::adjacent_find(paths.begin(), paths.end());
  check(twice == paths.end(), "[catalogue] {}: two files have the path \"{}\"", fields.where(),
        twice == paths.end() ? "" : *twice);
}

DataSet parse_set(const std::string& name, const Json& object, std::string_view source) {
  const Fields fields(object, fmt::format("{}: set \"{}\"", source, name),
                      {"description", "licence", "home", "package", "mirrors", "files", "unpack", "unpacked_bytes",
                       "unpacked_files", "text", "examples"});
  check(is_plain_path(name, false), "[catalogue] {}: a name has letters, digits and ._- alone", fields.where());
  DataSet set;
  set.name = name;
  set.description = fields.text("description");
  set.licence = fields.text("licence");
  set.home = fields.text("home", "");
  set.package = fields.text("package", "");
  if (!set.package.empty()) return set;
  parse_files(fields, set);
  set.unpack = fields.flag("unpack");
  if (fields.has("unpacked_bytes")) set.unpacked_bytes = fields.number("unpacked_bytes", 1);
  if (fields.has("unpacked_files")) set.unpacked_files = fields.number("unpacked_files", 1);
  if (fields.has("text")) {
    const Json& parts = fields.at("text");
    check(parts.is_object(), "[catalogue] {}: \"text\" must be an object of parts", fields.where());
    for (const auto& [part, value] : parts.items()) set.parts.push_back(parse_part(part, value, fields.where()));
  }
  if (fields.has("examples")) {
    const Json& recipes = fields.at("examples");
    check(set.unpack && recipes.is_object(), "[catalogue] {}: \"examples\" must be an object, of a set to \"unpack\"",
          fields.where());
    for (const auto& [recipe, value] : recipes.items())
      set.examples.push_back(parse_recipe(recipe, value, fields.where()));
  }
  return set;
}

/// "36.4 MB"; "?" where a size is not known.
std::string total_size(const DataSet& set) {
  if (!set.package.empty()) return "package";
  int64_t total = 0;
  for (const RemoteFile& file : set.files) {
    if (file.size < 0) return "?";
    total += file.size;
  }
  return fmt::format("{:.1f} MB", static_cast<double>(total) * 1e-6);
}

}  // namespace

std::vector<DataSet> parse_catalog(std::string_view text, std::string_view source) {
  const Json sets = parse_json<Json>(text, source);
  check(sets.is_object(), "[catalogue] {}: expected an object of data sets", source);
  std::vector<DataSet> catalog;
  for (const auto& [name, value] : sets.items()) catalog.push_back(parse_set(name, value, source));
  return catalog;
}

const std::vector<DataSet>& builtin_catalog() {
  static const std::vector<DataSet> catalog = [] {
    auto sets = parse_catalog(kCatalogTable, "built-in catalogue");
    for (DataSet& set : parse_catalog(kPg19Table, "built-in catalogue")) sets.push_back(std::move(set));
    return sets;
  }();
  return catalog;
}

const DataSet& find_data_set(const std::vector<DataSet>& catalog, std::string_view name) {
  const auto found = std::find_if(catalog.begin(), catalog.end(), [&](const DataSet& set) { return set.name == name; });
  if (found != catalog.end()) return *found;
  std::vector<std::string_view> known;
  for (const DataSet& set : catalog) known.emplace_back(set.name);
  fail_usage("[data get] unknown data set \"{}\"; known: {}", name, fmt::join(known, ", "));
}

std::string list_catalog(const std::vector<DataSet>& catalog) {
  std::string table =
      fmt::format("{:<18} {:>10}  {:<7} {:<9} description (licence)\n", "name", "download", "hash", "becomes");
  for (const DataSet& set : catalog) {
    const bool sha256 =
        std::all_of(set.files.begin(), set.files.end(), [](const auto& f) { return !f.sha256.empty(); });
    const bool any =
        sha256 || std::all_of(set.files.begin(), set.files.end(), [](const auto& f) { return !f.md5.empty(); });
    const char* hash = !set.package.empty() ? "apt" : sha256 ? "sha256" : any ? "md5" : "none";
    const char* becomes = !set.package.empty() || !set.parts.empty() ? "tokens"
                          : !set.examples.empty()                    ? "examples"
                                                                     : "files";
    table += fmt::format("{:<18} {:>10}  {:<7} {:<9} {} ({})\n", set.name, total_size(set), hash, becomes,
                         set.description, set.licence);
  }
  return table;
}

}  // namespace megalodon::data
