// A small run on made-up English, and the losses that it leaves behind.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/testing.h"
#include "train/run_config.h"

namespace megalodon::testing {

/// Sentences of a small vocabulary with a grammar, in documents of different lengths: a pure function of the seed.
std::vector<std::string> pseudo_english(uint64_t seed, int64_t documents);

class SmallRunTest : public data::CorpusTest {
 protected:
  /// Writes the corpora "train" and "valid".
  void SetUp() override;
  /// Two layers with dropout everywhere, 256 tokens a step, one thread.
  RunConfig small_run(const std::string& name) const;
  /// Trains to the end and returns the losses of the steps; `evaluation` receives the last evaluation's loss.
  std::vector<double> losses_of(const RunConfig& run, double* evaluation = nullptr) const;
};

}  // namespace megalodon::testing
