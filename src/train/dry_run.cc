// Trainer::dry_run(): sizes from the configuration, and a step measured without its update.
#include <fmt/format.h>
#include <sys/resource.h>

#include "base/process.h"
#include "train/trainer.h"

namespace megalodon {
namespace {

constexpr double kGiB = 1 << 30;

double peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) * 1024;
}

}  // namespace

std::string Trainer::dry_run() {
  const ModelInfo info = model_->info();
  // The backward pass costs two forward passes; recomputing activations one more.
  const double flops_per_token = info.forward_flops_per_token * (config_.train.checkpointing ? 4 : 3);
  const auto batches = next_batches();
  backward(batches);  // the first pass also pays for fresh memory
  const Stopwatch watch;
  const double loss = backward(batches);
  const double norm = optimizer_.gradient_norm(), seconds = watch.seconds();
  optimizer_.zero_grad();
  loader_.seek(state_.loader_position);

  const auto tokens = static_cast<double>(tokens_per_step());
  std::string text = overview() + "\n";
  const auto row = [&](const char* name, const std::string& value) { text += fmt::format("{:<34}{}\n", name, value); };
  row("parameters", fmt::format("{}", info.parameters));
  row("tokens per step", fmt::format("{}", tokens_per_step()));
  row("FLOPs per token, training", fmt::format("{:.4g}", flops_per_token));
  row("weights, gradients, two moments",
      fmt::format("{:.3f} GiB", 4.0 * sizeof(float) * static_cast<double>(info.parameters) / kGiB));
  row("peak memory, activations included", fmt::format("{:.3f} GiB", peak_resident_bytes() / kGiB));
  row("first loss", fmt::format("{:.4f}", loss));
  row("first gradient norm", fmt::format("{:.4f}", norm));
  row("a step without its update", fmt::format("{:.3f} s, {:.0f} tokens/s, {:.1f} GFLOP/s", seconds, tokens / seconds,
                                               tokens * flops_per_token / seconds * 1e-9));
  row("all steps", format_duration(seconds * static_cast<double>(config_.train.steps - state_.step)));
  return text;
}

}  // namespace megalodon
