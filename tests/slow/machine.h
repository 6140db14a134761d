// What decides a run's bits besides the code.
#pragma once

#include <nlohmann/json.hpp>

namespace megalodon::testing {

/// Processor, instruction set of the kernels, libtorch, BLAS, oneDNN, compiler, kind of build. Where all of it is
/// equal, a run computes the same bits.
nlohmann::ordered_json machine();

/// Lets the kernels use the least of the instruction sets they are compiled for, while it lives.
class LeastInstructionSet {
 public:
  LeastInstructionSet();
  ~LeastInstructionSet();
  LeastInstructionSet(const LeastInstructionSet&) = delete;
  LeastInstructionSet& operator=(const LeastInstructionSet&) = delete;
};

}  // namespace megalodon::testing
