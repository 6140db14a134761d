#include "train/checkpoint_writer.h"

#include "base/process.h"

namespace megalodon {

CheckpointWriter::CheckpointWriter(const RunFolder& folder, const SaveOptions& options, bool async)
    : folder_(folder), options_(options), async_(async) {}

void CheckpointWriter::save(FolderParts parts, int64_t step) {
  wait();
  if (!async_) return write(parts, step);
  keep_copies(parts);
  busy_ = true;
  thread_ = std::jthread([this, parts = std::move(parts), step] {
    write(parts, step);
    busy_ = false;
  });
}

void CheckpointWriter::wait() {
  if (thread_.joinable()) thread_.join();
}

std::vector<SaveReport> CheckpointWriter::reports() {
  if (busy_) return {};
  return std::exchange(reports_, {});
}

/// Replaces the tensors by copies.
void CheckpointWriter::keep_copies(FolderParts& parts) {
  torch::NoGradGuard no_grad;
  for (TensorPart& part : parts.tensors) {
    for (auto& [name, tensor] : part.tensors) {
      Tensor& copy = copies_[fmt::format("{}/{}", part.name, name)];
      if (!copy.defined() || copy.sizes() != tensor.sizes() || copy.scalar_type() != tensor.scalar_type())
        copy = torch::empty(tensor.sizes(), tensor.scalar_type());
      copy.copy_(tensor);
      tensor = copy;
    }
  }
}

void CheckpointWriter::write(const FolderParts& parts, int64_t step) {
  const Stopwatch watch;
  SaveReport report;
  report.step = step;
  try {
    report.bytes = folder_.save(parts, step, options_);
  } catch (const std::exception& error) {
    report.error = error.what();
  }
  report.seconds = watch.seconds();
  reports_.push_back(std::move(report));
}

}  // namespace megalodon
