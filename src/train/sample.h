// What the model writes at this point of its training, for people to read.
#pragma once

#include <functional>
#include <string>

#include "data/tokenizer.h"
#include "models/model.h"

namespace megalodon {

/// The prompt and its continuation by `tokens` tokens, fit for a terminal. Draws random numbers of its own and leaves
/// the model as it was. Ends early where `stop` says so.
std::string sample_text(Model& model, const data::Tokenizer& tokenizer, const std::string& prompt, int64_t tokens,
                        int64_t seed, const std::function<bool()>& stop);

}  // namespace megalodon
