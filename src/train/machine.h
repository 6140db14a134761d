// What this machine can do at most, to measure a run by.
#pragma once

namespace megalodon {

/// Floating-point operations a second of a large float32 matrix product with the threads that are set: the best of as
/// many as fit into about a third of a second.
double measure_peak_flops();

}  // namespace megalodon
