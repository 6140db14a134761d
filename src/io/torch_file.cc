// torch.save's format: a zip archive of stored entries. <folder>/data.pkl is a pickle that describes the tensors, and
// <folder>/data/<key> are the storages they are windows on.
#include "io/torch_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <tuple>

#include "base/check.h"
#include "io/bytes.h"
#include "io/pickle.h"
#include "io/zip.h"

namespace megalodon::io {
namespace {

using Bytes = std::span<const std::byte>;

std::vector<int64_t> row_major_strides(const std::vector<int64_t>& shape) {
  std::vector<int64_t> strides(shape.size(), 1);
  for (size_t i = shape.size(); i-- > 1;) strides[i - 1] = strides[i] * std::max<int64_t>(shape[i], 1);
  return strides;
}

/// The stride of a dimension of size 1 never matters.
bool is_row_major(const PickledTensor& tensor) {
  const std::vector<int64_t> expected = row_major_strides(tensor.shape);
  for (size_t i = 0; i < expected.size(); ++i) {
    if (tensor.shape[i] != 1 && tensor.strides[i] != expected[i]) return false;
  }
  return true;
}

/// Throws unless every element lies inside the storage. Returns the bytes of the tensor.
size_t check_window(const PickledTensor& tensor) {
  const std::string name = printable(tensor.name);
  const std::optional<size_t> bytes = byte_size(tensor.shape, tensor.dtype);
  check(bytes.has_value() && tensor.shape.size() == tensor.strides.size() && tensor.offset >= 0,
        "tensor '{}': shape {}, strides {} and offset {} are impossible", name, shape_text(tensor.shape),
        shape_text(tensor.strides), tensor.offset);
  int64_t last = tensor.offset;
  bool fits = true;
  for (size_t i = 0; i < tensor.shape.size() && *bytes > 0; ++i) {
    int64_t reach = 0;
    fits = fits && tensor.strides[i] >= 0 && !__builtin_mul_overflow(tensor.shape[i] - 1, tensor.strides[i], &reach) &&
           !__builtin_add_overflow(last, reach, &last);
  }
  check(fits && (*bytes == 0 || last < tensor.storage_size),
        "tensor '{}': shape {} with strides {} from {} leaves its storage of {} elements", name,
        shape_text(tensor.shape), shape_text(tensor.strides), tensor.offset, tensor.storage_size);
  return *bytes;
}

/// Walks the elements in row-major order.
void gather(const PickledTensor& tensor, Bytes storage, std::span<std::byte> out) {
  const size_t size = dtype_size(tensor.dtype);
  std::vector<int64_t> index(tensor.shape.size(), 0), strides = tensor.strides;
  for (size_t i = 0; i < strides.size(); ++i) {
    if (tensor.shape[i] == 1) strides[i] = 0;  // never matters, was not checked, and could overflow below
  }
  int64_t position = tensor.offset;
  for (size_t written = 0; written < out.size(); written += size) {
    std::memcpy(out.data() + written, storage.data() + static_cast<size_t>(position) * size, size);
    for (size_t i = index.size(); i-- > 0;) {
      position += strides[i];
      if (++index[i] < tensor.shape[i]) break;
      position -= strides[i] * tensor.shape[i];
      index[i] = 0;
    }
  }
}

class TorchFileParser {
 public:
  TorchFileParser(Bytes file, std::shared_ptr<const void> owner)
      : zip_(file), copy_budget_(file.size()), owners_{std::move(owner)} {}

  TensorFile parse() {
    const ZipEntry& pickle = find_pickle();
    check_crc(pickle);
    std::vector<TensorView> views;
    for (const PickledTensor& tensor : parse_pickle(pickle.data)) {
      views.push_back({tensor.name, tensor.dtype, tensor.shape, bytes_of(tensor)});
    }
    return TensorFile(std::move(views), {}, std::move(owners_));
  }

 private:
  /// The archive has one folder, whose name is up to the writer.
  const ZipEntry& find_pickle() {
    constexpr std::string_view kName = "/data.pkl";
    for (const ZipEntry& entry : zip_.entries()) {
      const size_t slash = entry.name.find('/');
      if (slash == std::string_view::npos || entry.name.substr(slash) != kName) continue;
      folder_ = entry.name.substr(0, slash);
      const ZipEntry* order = zip_.find(folder_ + "/byteorder");
      check(!order || as_text(order->data) == "little", "the storages are not little-endian: '{}'",
            order ? printable(as_text(order->data)) : "");
      return entry;
    }
    fail("the zip archive has no data.pkl in its folder: not a file of torch.save?");
  }

  Bytes storage_of(const PickledTensor& tensor) {
    const std::string name = fmt::format("{}/data/{}", folder_, tensor.storage);
    const ZipEntry* entry = zip_.find(name);
    check(entry != nullptr, "tensor '{}': the archive has no '{}'", printable(tensor.name), printable(name));
    const int64_t size[] = {tensor.storage_size};
    check(byte_size(size, tensor.dtype) == entry->data.size(),
          "tensor '{}': '{}' must hold {} {} elements, has {} bytes", printable(tensor.name), printable(name),
          tensor.storage_size, dtype_name(tensor.dtype), entry->data.size());
    if (checked_.insert(entry).second) check_crc(*entry);
    return entry->data;
  }

  Bytes bytes_of(const PickledTensor& tensor) {
    const Bytes storage = storage_of(tensor);
    const size_t bytes = check_window(tensor);
    if (bytes == 0) return {};
    if (is_row_major(tensor)) {
      return storage.subspan(static_cast<size_t>(tensor.offset) * dtype_size(tensor.dtype), bytes);
    }
    Bytes& copy = copies_[{tensor.storage, tensor.dtype, tensor.offset, tensor.shape, tensor.strides}];
    if (copy.empty()) {
      // Strides of 0 make a few bytes into any number; whatever was worth saving is not larger than the file.
      check(bytes <= copy_budget_,
            "tensor '{}': strided tensors are larger than the file together; save them contiguous",
            printable(tensor.name));
      copy_budget_ -= bytes;
      auto buffer = std::make_shared<std::vector<std::byte>>(bytes);
      gather(tensor, storage, *buffer);
      copy = *buffer;
      owners_.push_back(std::move(buffer));
    }
    return copy;
  }

  ZipReader zip_;
  std::string folder_;
  std::set<const ZipEntry*> checked_;
  // Copies of strided windows; tied ones share theirs as they shared the storage.
  using Window = std::tuple<std::string, Dtype, int64_t, std::vector<int64_t>, std::vector<int64_t>>;
  std::map<Window, Bytes> copies_;
  size_t copy_budget_;
  std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace

TensorFile parse_torch_file(Bytes file, std::shared_ptr<const void> owner) {
  const bool is_bare_pickle = file.size() >= 2 && file[0] == std::byte{0x80} && file[1] == std::byte{2};
  check(!is_bare_pickle,
        "written in the format of PyTorch before 1.6: load it there and save it with a newer torch.save");
  return TorchFileParser(file, std::move(owner)).parse();
}

TensorFile read_torch_file(const fs::path& path) {
  const auto file = std::make_shared<MappedFile>(path);
  return with_context(fmt::format("[torch file] {}", path.string()),
                      [&] { return parse_torch_file(file->bytes(), file); });
}

void write_torch_file(const fs::path& path, std::span<const TensorView> tensors) {
  with_context(fmt::format("[torch file] {}", path.string()), [&] {
    // Its constructor holds writers to the same rules as readers.
    const TensorFile content({tensors.begin(), tensors.end()}, {}, {});
    std::map<std::tuple<const std::byte*, size_t, Dtype>, size_t> tied;
    std::vector<Bytes> storages;
    std::vector<PickledTensor> pickled;
    for (const TensorView& tensor : content.tensors()) {
      size_t storage = storages.size();
      if (!tensor.bytes.empty()) {
        storage = tied.try_emplace({tensor.bytes.data(), tensor.bytes.size(), tensor.dtype}, storage).first->second;
      }
      if (storage == storages.size()) storages.push_back(tensor.bytes);
      const auto elements = static_cast<int64_t>(tensor.bytes.size() / dtype_size(tensor.dtype));
      pickled.push_back({tensor.name, std::to_string(storage), tensor.dtype, elements, 0, tensor.shape,
                         row_major_strides(tensor.shape)});
    }
    const std::string pickle = write_pickle(pickled);
    AtomicFile file(path);
    ZipWriter zip([&](std::string_view bytes) { file.write(bytes); });
    zip.add("archive/data.pkl", as_bytes(pickle));
    for (size_t i = 0; i < storages.size(); ++i) zip.add(fmt::format("archive/data/{}", i), storages[i]);
    zip.add("archive/version", as_bytes("3\n"));
    zip.finish();
    file.publish();
  });
}

}  // namespace megalodon::io
