// Tensors in files, without a tensor library: name, dtype, shape and bytes. Two formats: safetensors (our own weights
// and states; CONVENTIONS of the format are in safetensors.cc) and the zip + pickle files of torch.save, in which the
// published checkpoints come. Both readers treat the file as hostile: every length is checked before it is used, and
// time and memory are linear in the file's size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/manifest.h"

namespace megalodon::io {

enum class Dtype { Bool, U8, I8, I16, U16, F16, BF16, I32, U32, F32, I64, U64, F64, C64 };

/// As in safetensors headers: "F32", "BF16", …
const char* dtype_name(Dtype dtype);
std::optional<Dtype> parse_dtype(std::string_view name);
size_t dtype_size(Dtype dtype);
/// Bytes of a tensor; nothing where a dimension is negative or the product overflows, even beside an empty dimension.
std::optional<size_t> byte_size(std::span<const int64_t> shape, Dtype dtype);

// Bounds on what a header of a few bytes a tensor can make a reader hold; real models stay far below.
inline constexpr size_t kMaxTensors = size_t{1} << 18;
inline constexpr size_t kMaxRank = 16;

struct TensorView {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<int64_t> shape;
  // Row-major, little-endian, numel * dtype_size long. Files may place a tensor at any byte: the start need not be
  // aligned for the dtype, so copy values out with memcpy and never read them through a typed pointer.
  std::span<const std::byte> bytes;
};

/// "[2, 3]"
std::string shape_text(std::span<const int64_t> shape);

/// The tensors of one file, in the file's order. Keeps the bytes that the views refer to alive. Names are unique, valid
/// UTF-8 without control characters, bytes fit the shapes and booleans are 0 or 1: the constructor throws otherwise.
class TensorFile {
 public:
  TensorFile(std::vector<TensorView> tensors, std::map<std::string, std::string> metadata,
             std::vector<std::shared_ptr<const void>> owners);
  const std::vector<TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  /// Null where there is none.
  const TensorView* find(std::string_view name) const;

 private:
  std::vector<TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
  std::vector<size_t> by_name_;  // positions in tensors_, sorted by name
  std::vector<std::shared_ptr<const void>> owners_;
};

TensorFile read_safetensors(const fs::path& path);

/// Atomic. Adds "format": "pt" to metadata that name no format: transformers refuses a file without. Returns what was
/// written, under the file's own name.
FileSum write_safetensors(const fs::path& path, std::span<const TensorView> tensors,
                          std::map<std::string, std::string> metadata = {});

/// Reads a state dict written by torch.save (zip format): an ordered dict of tensors and nothing else. The unpickler
/// knows only OrderedDict, torch._utils._rebuild_tensor_v2 (and _rebuild_parameter around it) and the storage classes;
/// any other opcode or global is refused. Tensors that share a storage come out as separate views of the same bytes;
/// strided ones are copied into row-major order.
TensorFile read_torch_file(const fs::path& path);

/// Writes what torch.load reads as an OrderedDict of contiguous tensors. Atomic. Views of the same bytes share a
/// storage, as tied weights do.
void write_torch_file(const fs::path& path, std::span<const TensorView> tensors);

}  // namespace megalodon::io
