// Pickles of torch.save. What the machine accepts is also read as a whole file, sealed in an archive with one storage:
// shapes, strides and offsets are checked there.
#include "io/pickle.h"

#include <string>

#include "io/bytes.h"
#include "io/torch_file.h"
#include "io/zip.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

std::string archive(std::span<const std::byte> pickle) {
  static const std::string storage(96, '\1');
  std::string file;
  io::ZipWriter zip([&](std::string_view bytes) { file += bytes; });
  zip.add("x/data.pkl", pickle);
  zip.add("x/data/0", io::as_bytes(storage));
  zip.finish();
  return file;
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  const auto bytes = fuzz::bytes_of(data, size);
  if (!fuzz::accepts([&] { io::parse_pickle(bytes); })) return 0;
  const std::string file = archive(bytes);
  fuzz::accepts([&] {
    const io::TensorFile tensors = io::parse_torch_file(io::as_bytes(file), nullptr);
    for (const io::TensorView& tensor : tensors.tensors()) fuzz::touch(tensor.bytes);
  });
  return 0;
}
