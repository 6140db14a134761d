// The one way kernels use the cores: an OpenMP loop over independent tasks, on the runtime that libtorch uses too. How
// many threads run is omp_get_max_threads(), which at::set_num_threads() sets. Never nested, never a second pool.
#pragma once

#include <omp.h>

#include <cstdint>

namespace megalodon {

/// Calls task(i) for i in [0, tasks), each exactly once, in any order and on any thread. Results must not depend on the
/// order: a task writes only what it owns.
template <class Task>
void parallel_for(int64_t tasks, const Task& task) {
#pragma omp parallel for schedule(dynamic) if (tasks > 1 && omp_get_max_threads() > 1 && !omp_in_parallel())
  for (int64_t i = 0; i < tasks; ++i) task(i);
}

}  // namespace megalodon
