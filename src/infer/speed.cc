#include "infer/speed.h"

#include <numeric>

#include "base/check.h"
#include "base/philox.h"
#include "base/process.h"
#include "ops/device.h"

namespace megalodon {
namespace {

using ops::FixedType;

EngineOptions options_for(FixedType type) {
  return {.cache_type = type == FixedType::kFloat32 ? torch::kFloat32 : torch::kBFloat16};
}

std::vector<int64_t> random_tokens(const Model& model, int64_t count, uint64_t stream) {
  std::vector<int64_t> tokens(static_cast<size_t>(count));
  const auto vocabulary = static_cast<uint64_t>(model.config().vocabulary());
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int64_t>(derive_key(stream, i) % vocabulary);
  return tokens;
}

/// Of a stream's fixed state, which a step reads and writes.
int64_t state_bytes(const Model& model) {
  return 2 * model.info().state_bytes_fixed;
}

/// Of the keys and values of one step of the open chunk.
int64_t bytes_per_key(const Model& model, const EngineOptions& options) {
  const CacheShape shape = model.info().cache;
  return shape.slots * shape.heads * (shape.key_width + shape.value_width) *
         static_cast<int64_t>(c10::elementSize(options.cache_type));
}

}  // namespace

int64_t matrix_bytes(Model& model) {
  const auto linears = model.linears();
  return std::accumulate(linears.begin(), linears.end(), int64_t{0}, [](int64_t sum, const nn::Linear* linear) {
    return sum + linear->packed->fixed().bytes().numel();
  });
}

void check_stepping(Model& model, FixedType type) {
  const Engine engine(model, options_for(type));
  const auto tokens = random_tokens(model, 48, 1);
  Stream whole, stepped;
  engine.read(whole, tokens);
  for (const int64_t& token : tokens) engine.read(stepped, {&token, 1});
  const double error = (stepped.logits() - whole.logits()).norm().item<double>();
  const double relative = error / whole.logits().norm().item<double>();
  // Few rows round their inputs otherwise than many do, in as many layers as there are.
  const double bound = type == FixedType::kFloat32 ? 1e-4 : 0.1;
  check(relative <= bound,
        "[bench] one by one, tokens give logits that differ by {:.2g} of their norm from those of one pass, "
        "more than {:.2g}: not timed",
        relative, bound);
}

DecodeSpeed measure_decode(Model& model, FixedType type, const DecodeCase& of, int64_t matrices) {
  EngineOptions options = options_for(type);
  if (!of.repeats) options.recorder = nullptr;
  const Engine engine(model, options);
  std::vector<Stream> streams(static_cast<size_t>(of.batch));
  std::vector<Stream*> batch;
  for (size_t b = 0; b < streams.size(); ++b) {
    batch.push_back(&streams[b]);
    if (of.depth > 0) engine.read(streams[b], random_tokens(model, of.depth, b));
  }
  const auto next = random_tokens(model, of.batch, 7);
  constexpr int64_t kWarmups = 4;  // a GPU repeats the step by then
  std::vector<double> seconds;
  int64_t keys = 0;
  const CacheShape cache = model.info().cache;
  for (int64_t step = 0; step < kWarmups + of.steps; ++step) {
    const Stopwatch watch;
    engine.step(batch, next);
    ops::synchronize(model.device());
    if (step < kWarmups) continue;
    seconds.push_back(watch.seconds());
    if (cache.slots > 0) keys += cache.kept(streams[0].tokens() - 1) + 1;
  }
  DecodeSpeed speed;
  speed.step = summarize(seconds);
  speed.bytes = matrices + of.batch * (state_bytes(model) + keys / of.steps * bytes_per_key(model, options));
  return speed;
}

Timing measure_prefill(Model& model, FixedType type, int64_t prompt, int64_t repetitions) {
  const Engine engine(model, options_for(type));
  const auto tokens = random_tokens(model, prompt, 1);
  return measure(
      [&] {
        Stream stream;
        engine.read(stream, tokens);
        ops::synchronize(model.device());
      },
      {.warmups = 1, .fewest = repetitions, .seconds = 0});
}

}  // namespace megalodon
