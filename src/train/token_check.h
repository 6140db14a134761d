// Whether a run's corpora and its model speak of the same tokens.
#pragma once

#include <string>

#include "data/token_files.h"
#include "data/tokenizer.h"
#include "models/model.h"

namespace megalodon {

/// Throws Error, naming the file, where another tokenizer made it. A file that does not say what made it is taken on
/// trust, but read as a whole: Error where it holds ids that the model does not have, Interrupted after a signal.
/// Returns what an overview should say about it; "" where all is known.
std::string check_tokens(const data::TokenFile& file, const data::Tokenizer& tokenizer, const ModelConfig& model);

}  // namespace megalodon
