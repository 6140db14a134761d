// Trainer::dry_run(): what a run would be, from its configuration and from one full step that is measured. Nothing is
// written; the step changes only the weights of this process, which ends after it.
#include <fmt/format.h>

#include <algorithm>

#include "base/process.h"
#include "ops/device.h"
#include "train/trainer.h"

namespace megalodon {
namespace {

constexpr double kGiB = 1 << 30;

double bytes_of(const FolderParts& parts) {
  double bytes = 0;
  for (const TensorPart& part : parts.tensors)
    for (const auto& [name, tensor] : part.tensors) bytes += static_cast<double>(tensor.nbytes());
  return bytes;
}

std::string gib(double bytes) {
  return fmt::format("{:.4g} GiB", bytes / kGiB);
}

}  // namespace

std::string Trainer::dry_run() {
  std::string text = overview() + "\n";
  const auto row = [&](const char* name, const std::string& value) { text += fmt::format("{:<38}{}\n", name, value); };
  const auto first = train_step();  // also pays for fresh memory and waits for the first batches
  optimizer_.zero_grad();
  const torch::Device device = task_->device();
  ops::reset_peak_memory(device);
  const auto before = static_cast<double>(ops::peak_memory(device));
  const auto step = train_step();
  const auto peak = static_cast<double>(ops::peak_memory(device));

  const double copies = config_.train.async_save ? bytes_of(parts()) : 0;
  const double copy = sizeof(float) * static_cast<double>(task_->parameters());
  const StepSize size = task_->step_size();
  const auto count = static_cast<double>(size.count);
  row("parameters", fmt::format("{}", task_->parameters()));
  row(fmt::format("{} per step", size.unit).c_str(), fmt::format("{}", size.count));
  if (size.flops > 0) row("FLOPs per token, training", fmt::format("{:.4g}", size.flops / count));
  row("weights", gib(copy));
  row("gradients", gib(copy));
  row("two moments", gib(2 * copy));
  if (average_) row("averaged weights", gib(copy));
  row("activations and workspace, measured", gib(std::max(0.0, peak - before - copy)));
  if (copies > 0) row("copies for saving beside training", gib(copies));
  if (device.is_cuda()) {
    row("peak memory of tensors on the GPU", gib(peak));
    row("peak memory of the process, measured", gib(static_cast<double>(peak_resident_bytes())));
  } else {
    row("peak memory of the process, measured", gib(peak));
    if (copies > 0) row("peak memory from the first save on", gib(peak + copies));
  }
  row("first loss", fmt::format("{:.4f}", first->loss));
  row("first gradient norm", fmt::format("{:.4f}", first->norm));
  std::string speed = fmt::format("{:.3f} s, {:.4g} {}/s", step->seconds, count / step->seconds, size.unit);
  if (size.flops > 0) speed += fmt::format(", {:.1f} GFLOP/s", size.flops / step->seconds * 1e-9);
  row("a full step, measured", speed);
  row("all steps, without evaluations",
      format_duration(step->seconds * static_cast<double>(config_.train.steps - state_.step + 2)));
  return text;
}

}  // namespace megalodon
