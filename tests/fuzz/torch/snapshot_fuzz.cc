// Snapshots of streams, with what a text keeps beside them. The model's fingerprint, which no input can guess, is put
// in first. What is accepted is of finite numbers and saved as the same again, and it reads on.
#include "infer/snapshot.h"

#include <ATen/Parallel.h>

#include <array>
#include <memory>
#include <optional>

#include "infer/text_stream.h"
#include "io/bytes.h"
#include "io/safetensors.h"
#include "models/testing.h"
#include "models/weights.h"
#include "tests/fuzz/fuzz.h"

namespace megalodon {
namespace {

struct Reader {
  Reader() { at::set_num_threads(1); }

  std::unique_ptr<Model> model = testing::noisy_model(testing::tiny_config());
  Engine engine{*model};
  data::ByteTokenizer tokenizer;
};

io::TensorFile of_model(const io::TensorFile& file, const Engine& engine) {
  auto metadata = file.metadata();
  if (metadata.contains("model")) metadata["model"] = engine.fingerprint();
  return {file.tensors(), metadata, {}};
}

void check_stream(const Engine& engine, const io::TensorFile& file, const Stream& stream) {
  fuzz::require(stream.tokens() > 0 && torch::isfinite(stream.logits()).all().item<bool>());
  for (const auto& [name, tensor] : engine.tensors(stream)) {
    const io::TensorView* view = file.find(name);
    fuzz::require(view != nullptr && io::as_text(view->bytes) == io::as_text(to_view(name, tensor).bytes));
  }
  Stream next = stream;
  engine.read(next, std::array<int64_t, 1>{1});
  fuzz::require(next.tokens() == stream.tokens() + 1);
}

/// The logits may be none that can be drawn from, where the numbers of the state are too large.
void check_text(TextStream& text) {
  fuzz::require(text.utf8.pending().size() < 4);
  fuzz::accepts([&] {
    const int64_t token = text.sampler.sample(text.stream.logits());
    fuzz::require(token >= 0 && token < text.stream.logits().numel());
  });
}

}  // namespace
}  // namespace megalodon

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace megalodon;
  static const Reader& reader = *new Reader;
  std::optional<io::TensorFile> file;
  if (!fuzz::accepts([&] { file = io::parse_safetensors(fuzz::bytes_of(data, size), nullptr); })) return 0;
  const io::TensorFile snapshot_file = of_model(*file, reader.engine);
  std::optional<Snapshot> snapshot;
  if (!fuzz::accepts([&] { snapshot = snapshot_of(snapshot_file, reader.engine, "fuzz"); })) return 0;
  check_stream(reader.engine, snapshot_file, snapshot->stream);
  std::optional<TextStream> text;
  if (fuzz::accepts([&] { text = text_stream_of(*snapshot, reader.tokenizer, {.presence_penalty = 1}); }))
    check_text(*text);
  return 0;
}
