// Whole files of torch.save: the zip archive with its 64-bit records, its checksums and the pickle inside.
#include "io/torch_file.h"

#include "io/bytes.h"
#include "io/zip.h"
#include "tests/fuzz/fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  const auto bytes = fuzz::bytes_of(data, size);
  const bool is_zip = fuzz::accepts([&] {
    const io::ZipReader zip(bytes);
    for (const io::ZipEntry& entry : zip.entries()) fuzz::touch(entry.data);
  });
  if (!is_zip) return 0;
  fuzz::accepts([&] {
    const io::TensorFile tensors = io::parse_torch_file(bytes, nullptr);
    for (const io::TensorView& tensor : tensors.tensors()) fuzz::touch(tensor.bytes);
  });
  return 0;
}
