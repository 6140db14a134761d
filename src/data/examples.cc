#include "data/examples.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "base/check.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/utf8.h"
#include "data/fingerprint.h"
#include "data/token_index.h"
#include "data/tokenizer.h"
#include "io/bytes.h"
#include "io/safetensors.h"

namespace megalodon::data {
namespace {

constexpr const char* kExampleFormat = "megalodon.cpp examples";
constexpr const char* kExampleVersion = "1";
constexpr int64_t kMaxNumber = std::numeric_limits<int32_t>::max();  // labels are I32, and so are tokens

fs::path example_path(const fs::path& path) {
  return example_prefix(path) += ".safetensors";
}

/// How stored tokens are called in token_index.h; 0 for a type that holds none.
int token_code(io::Dtype type) {
  switch (type) {
    case io::Dtype::U8:
      return 1;
    case io::Dtype::U16:
      return 8;
    case io::Dtype::I32:
      return 4;
    default:
      return 0;
  }
}

io::Dtype token_type(int code) {
  return code == 1 ? io::Dtype::U8 : code == 8 ? io::Dtype::U16 : io::Dtype::I32;
}

bool holds_vectors(io::Dtype type) {
  return type == io::Dtype::U8 || type == io::Dtype::I16 || type == io::Dtype::F32;
}

/// Numbers that may begin at any byte.
template <class T>
std::vector<T> numbers_of(const io::TensorView& tensor) {
  std::vector<T> numbers(tensor.bytes.size() / sizeof(T));
  if (!numbers.empty()) std::memcpy(numbers.data(), tensor.bytes.data(), tensor.bytes.size());
  return numbers;
}

template <class T>
void divide_numbers(const std::byte* from, float by, std::span<float> out) {
  T value;
  for (size_t i = 0; i < out.size(); ++i) {
    std::memcpy(&value, from + i * sizeof(T), sizeof(T));
    out[i] = static_cast<float>(value) / by;
  }
}

std::string_view metadata_at(const io::TensorFile& content, const char* key) {
  const auto found = content.metadata().find(key);
  check(found != content.metadata().end(), "the metadata lack \"{}\"", key);
  return found->second;
}

/// Names must tell classes apart and be text that JSON can hold.
void check_classes(const Classes& classes) {
  const std::set<std::string> apart(classes.names.begin(), classes.names.end());
  check(classes.count >= 1, "there must be a class at least");
  check(classes.names.empty() || static_cast<int64_t>(classes.names.size()) == classes.count,
        "{} classes need as many names or none, got {}", classes.count, classes.names.size());
  check(apart.size() == classes.names.size(), "two classes have the same name");
  for (const std::string& name : classes.names)
    check(is_valid_utf8(name), "a class's name must be valid UTF-8, got '{}'", printable(name));
}

Classes parse_classes(std::string_view text) {
  const auto tree = parse_json(text, "classes");
  Classes classes;
  if (tree.is_array()) {
    for (const auto& name : tree) {
      check(name.is_string(), "classes must be named by texts, got {}", name.dump());
      classes.names.push_back(name.get<std::string>());
    }
    classes.count = static_cast<int64_t>(classes.names.size());
  } else {
    const bool whole = tree.is_number_unsigned() && tree.get<uint64_t>() <= static_cast<uint64_t>(kMaxNumber);
    check(whole, "classes must be a list of names or a number up to {}, got {}", kMaxNumber, printable(text));
    classes.count = tree.get<int64_t>();
  }
  check_classes(classes);
  return classes;
}

int64_t parse_largest_token(std::string_view text) {
  int64_t token = 0;
  const bool digits = !text.empty() && text.size() <= 10 && text.find_first_not_of("0123456789") == text.npos;
  if (digits) token = std::stoll(std::string(text));
  check(digits && token <= kMaxNumber, "largest_token must be a whole number up to {}, got \"{}\"", kMaxNumber,
        printable(text));
  return token;
}

}  // namespace

fs::path example_prefix(const fs::path& path) {
  return path.extension() == ".safetensors" ? fs::path(path).replace_extension() : path;
}

bool is_example_file(const fs::path& prefix) {
  const fs::path path = example_path(prefix);
  if (!fs::is_regular_file(path)) return false;
  try {
    return metadata_at(io::read_safetensors(path), "format") == kExampleFormat;
  } catch (const Error&) {
    return false;  // a file of another kind
  }
}

ExampleFile::ExampleFile(const fs::path& prefix)
    : ExampleFile(io::read_safetensors(example_path(prefix)), example_path(prefix)) {}

ExampleFile::ExampleFile(io::TensorFile content, fs::path path) : content_(std::move(content)), path_(std::move(path)) {
  io::with_context(fmt::format("[examples] '{}'", path_.string()), [&] {
    read_metadata();
    read_values(tensor("values"));
    read_ends(tensor("ends"));
    read_labels(tensor("labels"));
  });
}

const io::TensorView& ExampleFile::tensor(const char* name) const {
  const io::TensorView* found = content_.find(name);
  check(found != nullptr, "there is no tensor '{}'", name);
  return *found;
}

void ExampleFile::read_metadata() {
  const std::string_view format = metadata_at(content_, "format");
  check(format == kExampleFormat, "expected a file of the format \"{}\", got \"{}\"", kExampleFormat,
        printable(format));
  const std::string_view version = metadata_at(content_, "format_version");
  check(version == kExampleVersion, "expected format_version {}, got {}", kExampleVersion, printable(version));
  classes_ = parse_classes(metadata_at(content_, "classes"));
  const std::string_view input = metadata_at(content_, "input");
  check(input == "tokens" || input == "vectors", "input must be tokens or vectors, got \"{}\"", printable(input));
  auto tokenizer = nlohmann::ordered_json();
  if (input == "tokens") {
    tokenizer = parse_json<nlohmann::ordered_json>(metadata_at(content_, "tokenizer"), "tokenizer");
    check(tokenizer.is_object(), "tokenizer must be an object, got {}", printable(tokenizer.dump()));
    largest_token_ = parse_largest_token(metadata_at(content_, "largest_token"));
  }
  tokenizer_ = std::make_shared<const nlohmann::ordered_json>(std::move(tokenizer));
}

void ExampleFile::read_values(const io::TensorView& values) {
  const bool known = holds_tokens() ? token_code(values.dtype) != 0 : holds_vectors(values.dtype);
  check(known, "values must be {}, got {}", holds_tokens() ? "U8, U16 or I32 for tokens" : "U8, I16 or F32 for vectors",
        io::dtype_name(values.dtype));
  const size_t rank = values.shape.size();
  check(rank == 1 || (rank == 2 && !holds_tokens() && values.shape[1] >= 1), "values must be [T]{}, got {}",
        holds_tokens() ? "" : " or [T, I]", io::shape_text(values.shape));
  if (rank == 2) width_ = values.shape[1];
  type_ = values.dtype;
  values_ = values.bytes;
}

void ExampleFile::read_ends(const io::TensorView& ends) {
  check(ends.dtype == io::Dtype::I64 && ends.shape.size() == 1, "ends must be I64 [S], got {} {}",
        io::dtype_name(ends.dtype), io::shape_text(ends.shape));
  ends_ = numbers_of<int64_t>(ends);
  const int64_t steps = tensor("values").shape[0];
  int64_t begin = 0;
  for (size_t i = 0; i < ends_.size(); ++i) {
    check(ends_[i] > begin && ends_[i] <= steps, "ends must rise up to {}, the steps of values, got {} after {} at {}",
          steps, ends_[i], begin, i);
    longest_ = std::max(longest_, ends_[i] - begin);
    begin = ends_[i];
  }
  check(!ends_.empty() && begin == steps, "the last sequence must end with values, at {}, got {}", steps, begin);
}

void ExampleFile::read_labels(const io::TensorView& labels) {
  check(labels.dtype == io::Dtype::I32 && labels.shape.size() == 1, "labels must be I32 [N], got {} {}",
        io::dtype_name(labels.dtype), io::shape_text(labels.shape));
  labels_ = numbers_of<int32_t>(labels);
  check(labels_.size() == ends_.size() || labels_.size() * 2 == ends_.size(),
        "an example must have 1 sequence, or 2 in all, got {} labels of {} sequences", labels_.size(), ends_.size());
  sequences_ = static_cast<int64_t>(ends_.size() / labels_.size());
  for (size_t i = 0; i < labels_.size(); ++i)
    check(labels_[i] >= 0 && labels_[i] < classes_.count, "label {} must be in [0, {}), got {}", i, classes_.count,
          labels_[i]);
}

size_t ExampleFile::index_of(int64_t example, int64_t sequence) const {
  check(example >= 0 && example < size() && sequence >= 0 && sequence < sequences_,
        "[examples] '{}': expected an example in [0, {}) and a sequence in [0, {}), got {} and {}", path_.string(),
        size(), sequences_, example, sequence);
  return static_cast<size_t>(example * sequences_ + sequence);
}

int64_t ExampleFile::length(int64_t example, int64_t sequence) const {
  const size_t index = index_of(example, sequence);
  return ends_[index] - (index == 0 ? 0 : ends_[index - 1]);
}

/// Where the first `count` steps of a sequence lie.
ExampleFile::Steps ExampleFile::steps_of(int64_t example, int64_t sequence, size_t count) const {
  const int64_t steps = length(example, sequence);
  check(count <= static_cast<size_t>(steps), "[examples] '{}': example {} has {} steps, cannot read {}", path_.string(),
        example, steps, count);
  const int64_t begin = ends_[index_of(example, sequence)] - steps;
  return {values_.data() + static_cast<size_t>(begin * width_) * io::dtype_size(type_), begin};
}

void ExampleFile::read_tokens(int64_t example, int64_t sequence, std::span<int64_t> out) const {
  check(holds_tokens(), "[examples] '{}' holds vectors, not tokens", path_.string());
  const Steps steps = steps_of(example, sequence, out.size());
  with_token_dtype(token_code(type_), [&]<class T>(T value) {
    for (size_t i = 0; i < out.size(); ++i) {
      std::memcpy(&value, steps.from + i * sizeof(T), sizeof(T));
      out[i] = value;  // NOLINT(bugprone-signed-char-misuse): no type here is a character's
      check(out[i] >= 0 && out[i] <= *largest_token_,
            "[examples] '{}': token {} of values must be in [0, {}], the largest_token that it names, got {}",
            path_.string(), steps.begin + static_cast<int64_t>(i), *largest_token_, out[i]);
    }
  });
}

void ExampleFile::read_vectors(int64_t example, int64_t sequence, std::span<float> out) const {
  check(!holds_tokens(), "[examples] '{}' holds tokens, not vectors", path_.string());
  const auto width = static_cast<size_t>(width_);
  check(out.size() % width == 0, "[examples] '{}': expected room for whole vectors of {} numbers, got {}",
        path_.string(), width, out.size());
  const Steps steps = steps_of(example, sequence, out.size() / width);
  if (type_ == io::Dtype::U8) return divide_numbers<uint8_t>(steps.from, 255, out);
  if (type_ == io::Dtype::I16) return divide_numbers<int16_t>(steps.from, 32768, out);
  divide_numbers<float>(steps.from, 1, out);
  const auto bad = std::find_if(out.begin(), out.end(), [](float value) { return !std::isfinite(value); });
  check(bad == out.end(), "[examples] '{}': vector {} of values must be finite, got {}", path_.string(),
        steps.begin + (bad - out.begin()) / width_, bad == out.end() ? 0 : *bad);
}

std::string ExampleFile::fingerprint() const {
  const uint64_t hashes[] = {xxh3_64(std::as_bytes(std::span(ends_))),
                             xxh3_64(std::as_bytes(std::span(labels_))),
                             static_cast<uint64_t>(classes_.count),
                             xxh3_64(fmt::format("{}", fmt::join(classes_.names, "\n"))),
                             static_cast<uint64_t>(type_),
                             static_cast<uint64_t>(width_),
                             static_cast<uint64_t>(holds_tokens())};
  return data_fingerprint(xxh3_64(std::as_bytes(std::span(hashes))), values_);
}

namespace {

constexpr size_t kValuesInMemory = size_t{64} << 20;

/// Values wait in files whose names begin so.
fs::path values_spill(const fs::path& prefix) {
  return example_path(prefix) += ".values-";
}

}  // namespace

ExampleWriter::ExampleWriter(const fs::path& prefix, const Tokenizer& tokenizer)
    : prefix_(example_prefix(prefix)),
      store_(tokenizer.vocabulary()),
      tokenizer_(std::make_unique<nlohmann::ordered_json>(tokenizer.describe())),
      type_(token_type(store_->code())),
      width_(1),
      values_(values_spill(prefix_), kValuesInMemory),
      file_(example_path(prefix_)) {}

ExampleWriter::ExampleWriter(const fs::path& prefix, io::Dtype type, int64_t width)
    : prefix_(example_prefix(prefix)),
      type_(type),
      width_(width),
      values_(values_spill(prefix_), kValuesInMemory),
      file_(example_path(prefix_)) {
  check(holds_vectors(type) && width >= 1, "[examples] '{}': expected vectors of U8, I16 or F32, got {} of {}",
        prefix_.string(), width, io::dtype_name(type));
}

ExampleWriter::~ExampleWriter() = default;

void ExampleWriter::add_tokens(std::span<const int32_t> tokens) {
  check(store_.has_value(), "[examples] '{}' is to hold vectors, not tokens", prefix_.string());
  std::string stored;
  store_->put(tokens, stored);
  add_stored(stored);
}

void ExampleWriter::add_stored(std::string_view bytes) {
  const size_t step = static_cast<size_t>(width_) * io::dtype_size(type_);
  check(!bytes.empty() && bytes.size() % step == 0,
        "[examples] '{}': a sequence must be of steps of {} bytes, one at least, got {} bytes", prefix_.string(), step,
        bytes.size());
  if (store_) range_.add(std::as_bytes(std::span(bytes)), store_->code());
  values_.append(bytes);
  ends_.push_back(steps() + static_cast<int64_t>(bytes.size() / step));
}

void ExampleWriter::end_example(int64_t label) {
  check(label >= 0 && label <= kMaxNumber, "[examples] '{}': a label must be in [0, {}], got {}", prefix_.string(),
        kMaxNumber, label);
  if (labels_.empty()) sequences_ = static_cast<int64_t>(ends_.size());
  const int64_t got = static_cast<int64_t>(ends_.size()) - size() * sequences_;
  check((sequences_ == 1 || sequences_ == 2) && got == sequences_,
        "[examples] '{}': example {} has {} sequences, expected {}", prefix_.string(), size(), got,
        size() == 0 ? "1 or 2" : std::to_string(sequences_));
  labels_.push_back(static_cast<int32_t>(label));
}

void ExampleWriter::relabel(std::span<const int64_t> places) {
  for (int32_t& label : labels_) label = static_cast<int32_t>(places[static_cast<size_t>(label)]);
}

/// Writes everything and brings it to the disk.
void ExampleWriter::seal(const Classes& classes) {
  const auto where = prefix_.string();
  check(!labels_.empty(), "[examples] '{}': there is no example to write", where);
  check(static_cast<int64_t>(ends_.size()) == size() * sequences_, "[examples] '{}': the last example lacks its end",
        where);
  io::with_context(fmt::format("[examples] '{}'", where), [&] { check_classes(classes); });
  const int32_t largest = *std::max_element(labels_.begin(), labels_.end());
  check(largest < classes.count, "[examples] '{}': labels must be in [0, {}), got {}", where, classes.count, largest);
  std::map<std::string, std::string> metadata = {
      {"format", kExampleFormat},
      {"format_version", kExampleVersion},
      {"input", store_ ? "tokens" : "vectors"},
      {"classes",
       classes.names.empty() ? std::to_string(classes.count) : nlohmann::ordered_json(classes.names).dump()}};
  if (store_) metadata["tokenizer"] = tokenizer_->dump(), metadata["largest_token"] = std::to_string(range_.largest);
  std::vector<int64_t> shape = {steps()};
  if (width_ > 1) shape.push_back(width_);
  // In the order of safetensors_order(): no type of values is wider than the labels'.
  const io::TensorView tensors[] = {
      {"ends", io::Dtype::I64, {static_cast<int64_t>(ends_.size())}, std::as_bytes(std::span(ends_))},
      {"labels", io::Dtype::I32, {size()}, std::as_bytes(std::span(labels_))},
      {"values", type_, shape, {}}};
  const io::TensorView* order[] = {&tensors[0], &tensors[1], &tensors[2]};
  file_.write(io::safetensors_header(order, metadata));
  for (const io::TensorView& tensor : tensors) file_.write(tensor.bytes.data(), tensor.bytes.size());
  values_.read(0, values_.size(), [&](std::string_view piece) { file_.write(piece); });
  values_ = SpillBuffer(values_spill(prefix_), kValuesInMemory);  // gives the disk back
  file_.seal();
}

void ExampleWriter::finish(const Classes& classes) {
  ExampleWriter* const self = this;
  finish_together({&self, 1}, classes);
}

void ExampleWriter::finish_together(std::span<ExampleWriter* const> writers, const Classes& classes,
                                    const fs::path& split) {
  for (ExampleWriter* writer : writers) writer->seal(classes);
  // A crash between the renames must leave no part beside those of another set: the first goes now and comes last.
  fs::remove(example_path(writers.front()->prefix_));
  for (const char* part : kParts) {
    const auto is_part = [&](const ExampleWriter* writer) { return writer->prefix_ == split / part; };
    const bool outdated = !split.empty() && std::none_of(writers.begin(), writers.end(), is_part);
    if (outdated && is_example_file(split / part)) fs::remove(example_path(split / part));
  }
  for (auto writer = writers.rbegin(); writer != writers.rend(); ++writer) (*writer)->file_.publish();
}

}  // namespace megalodon::data
