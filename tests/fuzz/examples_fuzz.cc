// Files of labelled sequences. Of what is accepted every sequence can be asked for: its numbers are read or refused,
// and tokens, labels and lengths keep to what the file says of itself.
#include "data/examples.h"

#include <cmath>
#include <optional>
#include <vector>

#include "io/safetensors.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

void check_sequence(const data::ExampleFile& file, int64_t example, int64_t sequence) {
  const int64_t length = file.length(example, sequence);
  fuzz::require(length >= 1 && length <= file.longest());
  if (file.holds_tokens()) {
    std::vector<int64_t> tokens(static_cast<size_t>(length));
    if (!fuzz::accepts([&] { file.read_tokens(example, sequence, tokens); })) return;
    for (const int64_t token : tokens) fuzz::require(token >= 0 && token <= file.largest_token());
  } else {
    std::vector<float> numbers(static_cast<size_t>(length * file.width()));
    if (!fuzz::accepts([&] { file.read_vectors(example, sequence, numbers); })) return;
    for (const float number : numbers) fuzz::require(std::isfinite(number));
  }
}

void check_promises(const data::ExampleFile& file) {
  fuzz::require(file.size() >= 1 && (file.sequences() == 1 || file.sequences() == 2) && file.width() >= 1);
  fuzz::require(file.class_names().empty() || static_cast<int64_t>(file.class_names().size()) == file.classes());
  int64_t steps = 0;
  for (int64_t example = 0; example < file.size(); ++example) {
    fuzz::require(file.label(example) >= 0 && file.label(example) < file.classes());
    for (int64_t sequence = 0; sequence < file.sequences(); ++sequence) {
      check_sequence(file, example, sequence);
      steps += file.length(example, sequence);
    }
  }
  fuzz::require(steps == file.steps());
  file.fingerprint();
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  const auto bytes = fuzz::bytes_of(data, size);
  std::optional<data::ExampleFile> file;
  if (fuzz::accepts([&] { file.emplace(io::parse_safetensors(bytes, nullptr), "fuzz"); })) check_promises(*file);
  return 0;
}
