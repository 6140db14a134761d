// How fast a model reads and writes, for `megalodon bench decode|prefill`.
#pragma once

#include "base/timing.h"
#include "infer/engine.h"

namespace megalodon {

/// Of a model whose matrices are fixed: their bytes, all of which a step reads.
int64_t matrix_bytes(Model& model);

/// Throws Error where tokens read one by one do not give the logits of a pass over all of them, as far as the type's
/// rounding goes: what is wrong is not timed.
void check_stepping(Model& model, ops::FixedType type);

struct DecodeCase {
  int64_t depth = 0, batch = 1, steps = 128;
  bool repeats = true;  // as EngineOptions::recorder
};

struct DecodeSpeed {
  Timing step;
  int64_t bytes = 0;  // that a step has to read and write, on average: matrices, states, keys and values
};

/// `matrices`: their bytes. Keys and values are bfloat16 unless the matrices are float32.
DecodeSpeed measure_decode(Model& model, ops::FixedType type, const DecodeCase& of, int64_t matrices);

/// Of a whole prompt, each time by a stream of its own.
Timing measure_prefill(Model& model, ops::FixedType type, int64_t prompt, int64_t repetitions);

}  // namespace megalodon
