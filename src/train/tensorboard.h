// TensorBoard's event files: scalars and text over steps, for `tensorboard --logdir RUN`.
//
// A file is a row of records, each a protobuf message Event between checksums. Every call writes whole records with one
// write(), so a reader that follows the file sees a torn record at most where the process died, and takes it up there
// again. A resumed run begins a new file, whose first event tells readers to forget the steps from there on: what an
// interrupted run did beyond its last checkpoint does not show twice.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "base/log_file.h"

namespace megalodon {

struct Scalar {
  std::string tag;
  double value = 0;
};

/// The bytes of records; wall_time in seconds since 1970.
namespace event_record {
std::string version(double wall_time);
/// Readers drop what older files hold of this step and later ones.
std::string restart(double wall_time, int64_t step);
std::string scalars(double wall_time, int64_t step, std::span<const Scalar> list);
/// Shown by the text plugin, as Markdown.
std::string text(double wall_time, int64_t step, std::string_view tag, std::string_view markdown);
}  // namespace event_record

class EventWriter {
 public:
  /// A new file in `folder`, which is made if need be; the next step written will be `first_step`.
  EventWriter(const fs::path& folder, int64_t first_step);
  void restart(int64_t step);
  void scalars(int64_t step, std::span<const Scalar> list);
  void text(int64_t step, std::string_view tag, std::string_view markdown);
  LogFile& file() { return file_; }

 private:
  LogFile file_;
};

}  // namespace megalodon
