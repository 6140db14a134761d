// What this machine can do at most, to measure a run by.
#pragma once

#include <string>

#include "nn/linear.h"

namespace megalodon {

/// Floating-point operations a second of a large matrix product with the threads that are set, or on a GPU: the best of
/// as many as fit into about a third of a second. In bfloat16: of whatever is faster there, such products or those of
/// float32.
double measure_peak_flops(nn::Precision precision = nn::Precision::kFloat32, torch::Device device = torch::kCPU);

/// Bytes a second that the threads read from memory together, or on a GPU that a copy reads and writes: the best of
/// several passes over far more than caches hold.
double measure_bandwidth(torch::Device device = torch::kCPU);

/// "AMD EPYC 9R14, 2 threads, libtorch 1.13.0"; of a GPU "NVIDIA H100 80GB HBM3, libtorch 2.11.0".
std::string describe_machine(torch::Device device = torch::kCPU);

}  // namespace megalodon
