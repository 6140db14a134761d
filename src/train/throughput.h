// How fast a model trains here: whole optimizer steps on random tokens, timed one by one.
#pragma once

#include <memory>
#include <string>

#include "base/timing.h"
#include "models/model.h"

namespace megalodon {

struct ThroughputCase {
  std::shared_ptr<const ModelConfig> config;
  int64_t batch = 1, length = 2048;  // of a step
  nn::Precision precision = nn::Precision::kFloat32;
  int64_t checkpoint_every = 0;  // see Model::set_checkpointing()
  torch::Device device = torch::kCPU;
  int64_t warmups = 2, steps = 5;
};

struct Throughput {
  int64_t parameters = 0, tokens = 0;  // of the model; of a step
  Timing step;                         // gradient, its norm, update
  double flops = 0;                    // of a step, as the model needs them: what is computed twice counts once
  int64_t peak_bytes = 0;              // resident, of the process; on a GPU that tensors took of its memory
};

/// Throws Error, having timed nothing, where the kernels' loss or gradient on the first tokens differ from those of the
/// same model on the reference compositions in float64.
Throughput measure_throughput(const ThroughputCase& options);

}  // namespace megalodon
