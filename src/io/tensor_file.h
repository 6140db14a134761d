// Tensors in files, without a tensor library: name, dtype, shape and bytes. Two formats: safetensors (our own weights and
// states; CONVENTIONS of the format are in safetensors.cc) and the zip + pickle files of torch.save, in which the
// published checkpoints come. Both readers treat the file as hostile: every length is checked before it is used, and time
// and memory are linear in the file's size.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/file.h"

namespace megalodon::io {

enum class Dtype { Bool, U8, I8, I16, U16, F16, BF16, I32, U32, F32, I64, U64, F64, C64 };

/// As in safetensors headers: "F32", "BF16", …
const char* dtype_name(Dtype dtype);
size_t dtype_size(Dtype dtype);

struct TensorView {
  std::string name;
  Dtype dtype = Dtype::F32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;  // row-major, little-endian, numel * dtype_size long
};

/// "[2, 3]"
std::string shape_text(std::span<const int64_t> shape);

/// The tensors of one file, in the file's order. Keeps the bytes that the views refer to alive.
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
  std::map<std::string, size_t, std::less<>> index_;
  std::vector<std::shared_ptr<const void>> owners_;
};

TensorFile read_safetensors(const fs::path& path);

/// Atomic. Adds "format": "pt" to the metadata, without which transformers refuses the file.
void write_safetensors(const fs::path& path, std::span<const TensorView> tensors,
                       std::map<std::string, std::string> metadata = {});

/// Reads a state dict written by torch.save (zip format): an ordered dict of tensors and nothing else. The unpickler
/// knows only OrderedDict, torch._utils._rebuild_tensor_v2 and the storage classes; any other opcode or global is refused.
/// Tensors that share a storage come out as separate views of the same bytes.
TensorFile read_torch_file(const fs::path& path);

/// Writes what torch.load reads as an OrderedDict of contiguous tensors. Atomic. Views of the same bytes share a storage,
/// as tied weights do.
void write_torch_file(const fs::path& path, std::span<const TensorView> tensors);

}  // namespace megalodon::io
