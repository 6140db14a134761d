// How well a network does on held-out data.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace megalodon {

struct Evaluation {
  double loss = 0;                           // nats a target
  int64_t targets = 0;                       // tokens, or examples
  std::optional<double> bits_per_byte = {};  // of the text that the targets stand for
  std::optional<double> accuracy = {};       // of the targets, the part that was the most probable one
};

struct NamedEvaluation {
  std::string name;
  Evaluation result;
};

}  // namespace megalodon
