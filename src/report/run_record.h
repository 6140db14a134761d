// A run as its metrics.jsonl tells it (docs/training.md has the format).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/file.h"
#include "report/curve.h"

namespace megalodon::report {

/// A loss, and what it took to get there.
struct Measurement {
  int64_t step = 0, tokens = 0;
  double seconds = 0;                   // of all steps so far, without evaluations and saving
  double loss = 0;                      // nats a token
  std::optional<double> bits_per_byte;  // of held-out text
};

struct HeldOutSet {
  std::string name;
  std::vector<Measurement> list;  // of every evaluation whose loss is finite
  bool diverged = false;          // the last one is not
};

struct RunRecord {
  std::vector<Measurement> training;  // of every step whose loss is finite
  std::vector<HeldOutSet> held_out;   // the headline set first
  int64_t steps = 0, tokens = 0;
  double seconds = 0;
  double tokens_per_s = 0;                // of half of the steps more
  double peak_mib = 0, peak_gpu_mib = 0;  // of the process, and of a GPU's memory; 0: not known

  /// The losses of the headline set; none where nothing was evaluated yet.
  const std::vector<Measurement>& headline() const;
  /// Whether the last loss of the headline set is not finite.
  bool diverged() const { return !held_out.empty() && held_out.front().diverged; }
};

/// `headline` is the name of the set that comes first, evaluated or not. Nothing else where there is no such file.
/// Throws Error naming the line that is none of a metrics.jsonl; one that is still being written does not count.
RunRecord read_run_record(const fs::path& metrics, const std::string& headline);

enum class Axis { kTokens, kSeconds };
/// Losses against what they took.
Curve losses(const std::vector<Measurement>& list, Axis axis);
/// Where they are known.
Curve bits_per_byte(const std::vector<Measurement>& list, Axis axis);

}  // namespace megalodon::report
