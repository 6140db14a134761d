#include "train/throughput.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "models/weights.h"
#include "ops/device.h"
#include "train/optimizer.h"
#include "train/step.h"

namespace megalodon {
namespace {

constexpr uint64_t kSeed = 1;
constexpr int64_t kCheckedTokens = 256;

BatchTensors random_batch(const ModelConfig& config, int64_t batch, int64_t length) {
  torch::manual_seed(kSeed);
  const int64_t vocabulary = std::min(config.vocabulary(), config.outputs());
  const Tensor tokens = torch::randint(vocabulary, {batch, length + 1}, torch::kInt64);
  BatchTensors tensors;
  tensors.input.tokens_BL = tokens.narrow(1, 0, length).contiguous();
  tensors.targets_BL = tokens.narrow(1, 1, length).contiguous();
  return tensors;
}

struct LossAndNorm {
  double loss, norm;
};

LossAndNorm backward(Model& model, const BatchTensors& batch) {
  AdamW optimizer(named_weights(model), {});
  optimizer.zero_grad();
  const double loss = *backward_mean_loss(model, {batch}, nullptr, [](size_t) {});
  const double norm = optimizer.gradient_norm();
  optimizer.zero_grad();
  return {loss, norm};
}

void copy_weights(const Model& from, const Model& to) {
  torch::NoGradGuard no_grad;
  const auto source = named_weights(from), target = named_weights(to);
  for (size_t i = 0; i < source.size(); ++i) Tensor(target[i].second).copy_(source[i].second);
}

/// Float64 runs on the reference compositions.
void check_against_float64(Model& model, const ThroughputCase& options) {
  const BatchTensors batch = random_batch(*options.config, 1, std::min(options.length, kCheckedTokens));
  const LossAndNorm got = backward(model, batch);
  const auto exact = options.config->build();
  exact->to(options.device, torch::kFloat64);
  copy_weights(model, *exact);
  const LossAndNorm expected = backward(*exact, batch);
  const double tolerance = options.precision == nn::Precision::kFloat32 ? 1e-4 : 2e-2;
  const auto near = [&](double a, double b) { return std::abs(a - b) <= tolerance * std::abs(b); };
  check(near(got.loss, expected.loss) && near(got.norm, expected.norm),
        "[bench train] not timed: loss {} and gradient norm {} differ from those in float64, {} and {}", got.loss,
        got.norm, expected.loss, expected.norm);
}

}  // namespace

Throughput measure_throughput(const ThroughputCase& options) {
  const auto model = options.config->build();
  model->to(options.device);
  model->init_weights(kSeed);
  model->set_precision(options.precision);
  model->set_checkpointing(options.checkpoint_every);
  check_against_float64(*model, options);

  model->train();
  AdamW optimizer(named_weights(*model), {});
  const BatchTensors batch = random_batch(*options.config, options.batch, options.length);
  ops::reset_peak_memory(options.device);
  double loss = 0;
  Throughput result;
  result.step = measure(
      [&] {
        optimizer.zero_grad();
        loss = *backward_mean_loss(*model, {batch}, nullptr, [](size_t) {});
        optimizer.step(/*lr=*/1e-4, optimizer.gradient_norm());
        ops::synchronize(options.device);
      },
      {.warmups = options.warmups, .fewest = options.steps, .seconds = 0});
  check(std::isfinite(loss), "[bench train] the loss became {}", loss);
  result.peak_bytes = ops::peak_memory(options.device);
  result.parameters = model->info().parameters;
  result.tokens = options.batch * options.length;
  result.flops = 3 * model->info().mean_forward_flops(options.length) * static_cast<double>(result.tokens);
  return result;
}

}  // namespace megalodon
