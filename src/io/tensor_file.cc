#include "io/tensor_file.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>

#include "base/check.h"
#include "base/utf8.h"
#include "io/bytes.h"

namespace megalodon::io {
namespace {

struct DtypeInfo {
  std::string_view name;
  size_t size;
};

// In the order of Dtype.
constexpr std::array<DtypeInfo, 14> kDtypes = {{{"BOOL", 1},
                                                {"U8", 1},
                                                {"I8", 1},
                                                {"I16", 2},
                                                {"U16", 2},
                                                {"F16", 2},
                                                {"BF16", 2},
                                                {"I32", 4},
                                                {"U32", 4},
                                                {"F32", 4},
                                                {"I64", 8},
                                                {"U64", 8},
                                                {"F64", 8},
                                                {"C64", 8}}};
static_assert(static_cast<size_t>(Dtype::C64) + 1 == kDtypes.size());

bool is_control(char c) {
  return static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

void check_tensor(const TensorView& tensor) {
  const std::string& name = tensor.name;
  check(is_valid_utf8(name) && std::none_of(name.begin(), name.end(), is_control),
        "tensor name '{}' must be valid UTF-8 without control characters", printable(name));
  const std::optional<size_t> bytes = byte_size(tensor.shape, tensor.dtype);
  check(bytes == tensor.bytes.size(), "tensor '{}': {} {} needs {} bytes, got {}", printable(name),
        dtype_name(tensor.dtype), shape_text(tensor.shape), bytes ? std::to_string(*bytes) : "more than 2^63",
        tensor.bytes.size());
  // Any other value is undefined behaviour in whoever reads the byte as a bool.
  if (tensor.dtype != Dtype::Bool) return;
  const bool valid = std::all_of(tensor.bytes.begin(), tensor.bytes.end(),
                                 [](std::byte byte) { return byte == std::byte{0} || byte == std::byte{1}; });
  check(valid, "tensor '{}' is BOOL but has bytes other than 0 and 1", printable(name));
}

}  // namespace

const char* dtype_name(Dtype dtype) {
  return kDtypes.at(static_cast<size_t>(dtype)).name.data();
}

std::optional<Dtype> parse_dtype(std::string_view name) {
  const auto* found =
      std::find_if(kDtypes.begin(), kDtypes.end(), [&](const DtypeInfo& dtype) { return dtype.name == name; });
  if (found == kDtypes.end()) return std::nullopt;
  return static_cast<Dtype>(found - kDtypes.begin());
}

size_t dtype_size(Dtype dtype) {
  return kDtypes.at(static_cast<size_t>(dtype)).size;
}

std::optional<size_t> byte_size(std::span<const int64_t> shape, Dtype dtype) {
  // An empty dimension counts as 1 until the end: consumers compute strides the same way and must not overflow either.
  auto bytes = static_cast<int64_t>(dtype_size(dtype));
  bool empty = false;
  for (const int64_t size : shape) {
    if (size < 0 || __builtin_mul_overflow(bytes, std::max<int64_t>(size, 1), &bytes)) return std::nullopt;
    empty = empty || size == 0;
  }
  return empty ? 0 : static_cast<size_t>(bytes);
}

std::string shape_text(std::span<const int64_t> shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

TensorFile::TensorFile(std::vector<TensorView> tensors, std::map<std::string, std::string> metadata,
                       std::vector<std::shared_ptr<const void>> owners)
    : tensors_(std::move(tensors)),
      metadata_(std::move(metadata)),
      by_name_(tensors_.size()),
      owners_(std::move(owners)) {
  for (const TensorView& tensor : tensors_) check_tensor(tensor);
  std::iota(by_name_.begin(), by_name_.end(), size_t{0});
  std::sort(by_name_.begin(), by_name_.end(),
            [this](size_t a, size_t b) { return tensors_[a].name < tensors_[b].name; });
  const auto twice = std::adjacent_find(by_name_.begin(), by_name_.end(),
                                        [this](size_t a, size_t b) { return tensors_[a].name == tensors_[b].name; });
  if (twice != by_name_.end()) fail("two tensors are named '{}'", printable(tensors_[*twice].name));
}

const TensorView* TensorFile::find(std::string_view name) const {
  const auto found = std::lower_bound(by_name_.begin(), by_name_.end(), name,
                                      [this](size_t i, std::string_view wanted) { return tensors_[i].name < wanted; });
  if (found == by_name_.end() || tensors_[*found].name != name) return nullptr;
  return &tensors_[*found];
}

}  // namespace megalodon::io
