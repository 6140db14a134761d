// One pass of a model over the next tokens of a batch of streams.
#pragma once

#include <vector>

#include "models/model.h"

namespace megalodon {

struct PassResult {
  Tensor hidden_BLD;
  Tensor logits_BV;          // float32, of the tokens that come next
  std::vector<State> after;  // slot by slot
};

/// `before` is empty where the streams begin. Writes the new keys and values into the caches, one for each slot that
/// has them.
PassResult run_pass(Model& model, const Tensor& tokens_BL, const std::vector<State>& before,
                    std::vector<ops::KeyValueRows> caches);

}  // namespace megalodon
