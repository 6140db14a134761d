// Saving beside training: a step waits for a copy of what is to be saved, never for the disk.
#pragma once

#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "train/checkpoint.h"

namespace megalodon {

/// How a save ended.
struct SaveReport {
  int64_t step = 0;
  uint64_t bytes = 0;
  double seconds = 0;  // of writing and publishing
  std::string error;   // "": the checkpoint is published
};

class CheckpointWriter {
 public:
  /// `folder` is open and outlives the writer. Not `async`: save() returns when the checkpoint is published.
  CheckpointWriter(const RunFolder& folder, const SaveOptions& options, bool async);

  /// Waits for the save before, copies the tensors into buffers that stay for the next save, and writes them from a
  /// thread of its own. What happens to the tensors after the return does not matter to the checkpoint. Errors of
  /// writing are in the report: training may go on, and the next save may succeed.
  void save(FolderParts parts, int64_t step);
  /// Until nothing is in flight: before the end of the program, and before anybody reads or changes checkpoints.
  void wait();
  /// Of the saves that ended since the last call.
  std::vector<SaveReport> reports();

 private:
  void keep_copies(FolderParts& parts);
  void write(const FolderParts& parts, int64_t step);

  const RunFolder& folder_;
  SaveOptions options_;
  bool async_;
  std::map<std::string, Tensor> copies_;
  std::vector<SaveReport> reports_;  // the thread's while it is busy
  std::atomic<bool> busy_ = false;
  std::jthread thread_;  // last: it is joined before what it uses goes
};

}  // namespace megalodon
