// safetensors files. What is accepted is written again and must read as the same tensors.
#include "io/safetensors.h"

#include <optional>
#include <string>

#include "io/bytes.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

std::string file_of(const io::TensorFile& content) {
  const auto order = io::safetensors_order(content.tensors());
  std::string file = io::safetensors_header(order, content.metadata());
  for (const io::TensorView* tensor : order) file += io::as_text(tensor->bytes);
  return file;
}

void check_round_trip(const io::TensorFile& content) {
  const std::string file = file_of(content);
  const io::TensorFile again = io::parse_safetensors(io::as_bytes(file), nullptr);
  fuzz::require(again.metadata() == content.metadata() && again.tensors().size() == content.tensors().size());
  for (const io::TensorView& tensor : content.tensors()) {
    const io::TensorView* copy = again.find(tensor.name);
    fuzz::require(copy && copy->dtype == tensor.dtype && copy->shape == tensor.shape &&
                  io::as_text(copy->bytes) == io::as_text(tensor.bytes));
  }
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  const auto bytes = fuzz::bytes_of(data, size);
  std::optional<io::TensorFile> file;
  if (fuzz::accepts([&] { file = io::parse_safetensors(bytes, nullptr); })) check_round_trip(*file);
  return 0;
}
