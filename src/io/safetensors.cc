// safetensors: u64 n | n bytes of JSON, which start with '{' and may end in spaces | data. The JSON maps each name to
// {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}, offsets counted from the start of the data, and
// "__metadata__" to an object of strings. The tensors cover the data without gap or overlap.
#include "io/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/hash.h"
#include "base/utf8.h"
#include "io/bytes.h"

namespace megalodon::io {
namespace {

constexpr size_t kMaxHeader = 100'000'000;     // the format's own limit
constexpr size_t kMaxToken = size_t{4} << 20;  // a string or a number
constexpr const char* kMetadata = "__metadata__";

/// Takes the header apart while it is parsed, so that no tree is built of it and nesting is refused where it begins.
class HeaderParser final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderParser(std::span<const std::byte> data) : data_(data) {}

  std::vector<TensorView> tensors;
  std::map<std::string, std::string> metadata;

  bool key(string_t& key) override {
    if (place_ == Place::Tensors) {
      tensor_ = {};
      tensor_.name = key;
      has_dtype_ = has_shape_ = false;
      offsets_.clear();
    }
    key_ = std::move(key);
    return true;
  }

  bool start_object(size_t) override {
    if (place_ == Place::File) {
      place_ = Place::Tensors;
    } else if (place_ == Place::Tensors && key_ != kMetadata) {
      place_ = Place::Tensor;
    } else if (place_ == Place::Tensors && !has_metadata_) {
      has_metadata_ = true;
      place_ = Place::Metadata;
    } else {
      unexpected("an object");
    }
    return true;
  }

  bool end_object() override {
    if (place_ == Place::Tensor) add_tensor();
    place_ = place_ == Place::Tensors ? Place::File : Place::Tensors;
    return true;
  }

  bool start_array(size_t) override {
    if (place_ == Place::Tensor && key_ == "shape" && !has_shape_) {
      has_shape_ = true;
      place_ = Place::Shape;
    } else if (place_ == Place::Tensor && key_ == "data_offsets" && offsets_.empty()) {
      place_ = Place::Offsets;
    } else {
      unexpected("an array");
    }
    return true;
  }

  bool end_array() override {
    check(place_ == Place::Shape || offsets_.size() == 2, "{}: expected 2 data_offsets, got {}", where(),
          offsets_.size());
    place_ = Place::Tensor;
    return true;
  }

  bool string(string_t& value) override {
    if (place_ == Place::Metadata) {
      check(metadata.size() < kMaxTensors, "more than {} keys of metadata", kMaxTensors);
      check(metadata.emplace(key_, value).second, "metadata key '{}' appears twice", printable(key_));
    } else if (place_ == Place::Tensor && key_ == "dtype" && !has_dtype_) {
      const std::optional<Dtype> dtype = parse_dtype(value);
      check(dtype.has_value(), "{}: unknown dtype '{}'", where(), printable(value));
      tensor_.dtype = *dtype;
      has_dtype_ = true;
    } else {
      unexpected("a string");
    }
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::Shape) {
      check(value <= static_cast<uint64_t>(INT64_MAX), "{}: size {} is too large", where(), value);
      check(tensor_.shape.size() < kMaxRank, "{}: more than {} dimensions", where(), kMaxRank);
      tensor_.shape.push_back(static_cast<int64_t>(value));
    } else if (place_ == Place::Offsets && offsets_.size() < 2) {
      offsets_.push_back(value);
    } else {
      unexpected("a number");
    }
    return true;
  }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_integer(number_integer_t) override { return unexpected("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return unexpected("a number that is no integer"); }
  bool binary(binary_t&) override { return unexpected("binary data"); }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    fail("the header is not valid JSON near byte {}", position);
  }

 private:
  enum class Place { File, Tensors, Metadata, Tensor, Shape, Offsets };

  std::string where() const {
    if (place_ == Place::Metadata || key_ == kMetadata) return "metadata";
    return place_ == Place::File ? "the header" : fmt::format("tensor '{}'", printable(tensor_.name));
  }

  [[noreturn]] bool unexpected(const char* what) const {
    fail("{}: unexpected or repeated key '{}' with {}", where(), printable(key_), what);
  }

  void add_tensor() {
    check(tensors.size() < kMaxTensors, "more than {} tensors", kMaxTensors);
    check(has_dtype_ && has_shape_ && offsets_.size() == 2, "{}: needs dtype, shape and data_offsets", where());
    const size_t begin = offsets_[0], end = offsets_[1];
    check(begin <= end && end <= data_.size(),
          "{}: data_offsets [{}, {}] must rise and lie within the {} bytes of data", where(), begin, end, data_.size());
    tensor_.bytes = data_.subspan(begin, end - begin);
    tensors.push_back(std::move(tensor_));
  }

  std::span<const std::byte> data_;
  Place place_ = Place::File;
  std::string key_;
  bool has_metadata_ = false;
  // The tensor being read.
  TensorView tensor_;
  std::vector<uint64_t> offsets_;
  bool has_dtype_ = false, has_shape_ = false;
};

/// The parser below holds a token several times over, so one that fills the header is refused before.
void check_tokens(std::string_view header) {
  bool in_string = false;
  size_t length = 0;
  for (size_t i = 0; i < header.size(); ++i) {
    const char c = header[i];
    const bool is_between = c == ',' || c == ':' || c == '[' || c == ']' || c == '{' || c == '}' || c <= ' ';
    length = is_between && !in_string ? 0 : length + 1;
    if (c == '"') in_string = !in_string;
    if (c == '\\' && in_string) ++i;
    check(length <= kMaxToken, "a string or number of more than {} bytes in the header", kMaxToken);
  }
}

/// Sorts by place and refuses gaps and overlaps.
void check_coverage(std::vector<TensorView>& tensors, std::span<const std::byte> data) {
  const auto begin_of = [&](const TensorView& tensor) { return tensor.bytes.data() - data.data(); };
  std::stable_sort(tensors.begin(), tensors.end(), [&](const TensorView& a, const TensorView& b) {
    return std::pair(begin_of(a), a.bytes.size()) < std::pair(begin_of(b), b.bytes.size());
  });
  size_t end = 0;
  for (const TensorView& tensor : tensors) {
    const auto begin = static_cast<size_t>(begin_of(tensor));
    check(begin == end, "tensor '{}' begins at {} of the data where the one before ends at {}", printable(tensor.name),
          begin, end);
    end += tensor.bytes.size();
  }
  check(end == data.size(), "the tensors end at {} of {} bytes of data", end, data.size());
}

}  // namespace

TensorFile parse_safetensors(std::span<const std::byte> file, std::shared_ptr<const void> owner) {
  ByteReader reader(file);
  const auto length = reader.read<uint64_t>();
  check(length <= kMaxHeader, "the header's length {} is above the limit of {}: not a safetensors file?", length,
        kMaxHeader);
  const std::string_view header = as_text(reader.take(length));
  check(header.starts_with('{'), "the header does not start with '{{': not a safetensors file?");
  // The JSON library takes a zero byte for the end and would leave what follows unread.
  check(header.find('\0') == std::string_view::npos, "the header has a zero byte at {}", header.find('\0'));
  const std::span<const std::byte> data = reader.take(reader.remaining());

  check_tokens(header);
  HeaderParser parser(data);
  nlohmann::json::sax_parse(header.begin(), header.end(), &parser);
  check_coverage(parser.tensors, data);
  return TensorFile(std::move(parser.tensors), std::move(parser.metadata), {std::move(owner)});
}

std::vector<const TensorView*> safetensors_order(std::span<const TensorView> tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorView* a, const TensorView* b) {
    const size_t size_a = dtype_size(a->dtype), size_b = dtype_size(b->dtype);
    return size_a != size_b ? size_a > size_b : a->name < b->name;
  });
  return order;
}

std::string safetensors_header(std::span<const TensorView* const> tensors,
                               const std::map<std::string, std::string>& metadata) {
  const auto quoted = [](const std::string& text) { return nlohmann::json(text).dump(); };
  std::vector<std::string> entries;
  if (!metadata.empty()) entries.push_back(fmt::format("{}:{}", quoted(kMetadata), nlohmann::json(metadata).dump()));
  size_t begin = 0;
  for (const TensorView* tensor : tensors) {
    const size_t end = begin + byte_size(tensor->shape, tensor->dtype).value();
    entries.push_back(fmt::format(R"({}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})", quoted(tensor->name),
                                  dtype_name(tensor->dtype), fmt::join(tensor->shape, ","), begin, end));
    begin = end;
  }
  std::string json = fmt::format("{{{}}}", fmt::join(entries, ","));
  // The data begins at a multiple of 64 bytes, so that a mapping's tensors lie as vectors are read best.
  json.resize((json.size() + sizeof(uint64_t) + 63) / 64 * 64 - sizeof(uint64_t), ' ');
  check(json.size() <= kMaxHeader, "a header of {} bytes is above the limit of {}", json.size(), kMaxHeader);
  std::string out;
  append(out, static_cast<uint64_t>(json.size()));
  return out + json;
}

TensorFile read_safetensors(const fs::path& path) {
  const auto file = std::make_shared<MappedFile>(path);
  return with_context(fmt::format("[safetensors] {}", path.string()),
                      [&] { return parse_safetensors(file->bytes(), file); });
}

FileSum write_safetensors(const fs::path& path, std::span<const TensorView> tensors,
                          std::map<std::string, std::string> metadata) {
  metadata.try_emplace("format", "pt");
  return with_context(fmt::format("[safetensors] {}", path.string()), [&] {
    // Its constructor holds writers to the same rules as readers.
    const TensorFile content({tensors.begin(), tensors.end()}, std::move(metadata), {});
    check(!content.find(kMetadata), "a tensor cannot be named {}", kMetadata);
    for (const auto& [key, value] : content.metadata()) {
      check(is_valid_utf8(key) && is_valid_utf8(value), "metadata '{}' is not valid UTF-8", printable(key));
    }
    const std::vector<const TensorView*> order = safetensors_order(content.tensors());
    AtomicFile file(path);
    Xxh3 sum;  // of what is meant to be written, not of what the disk made of it
    const auto write = [&](std::span<const std::byte> bytes) {
      file.write(bytes.data(), bytes.size());
      sum.update(bytes);
    };
    write(as_bytes(safetensors_header(order, content.metadata())));
    for (const TensorView* tensor : order) write(tensor->bytes);
    file.publish();
    return FileSum{path.filename().string(), file.size(), sum.value()};
  });
}

}  // namespace megalodon::io
