// The published code's checkpoint folders: consolidated.pth (a pickled state dict), config.json with the
// hyperparameters under "model", consolidate_config.json.
#pragma once

#include "models/weights.h"

namespace megalodon {

/// Reads a published folder and writes ours into `target` (atomically), in the dtype of the source. The published form
/// does not say what the tokens are; `tokenizer` does, as config.json has it: {"type": "none"} for a model that only
/// counts in tokens. `files` are what the tokenizer needs beside it. Throws Error where it has more tokens than the
/// model reads.
void import_published(const fs::path& source, const fs::path& target,
                      nlohmann::ordered_json tokenizer = {{"type", "none"}}, const std::vector<TextPart>& files = {});
/// The way back; the result loads in the published code and in import_published().
void export_published(const fs::path& source, const fs::path& target);

bool is_published(const fs::path& folder);

}  // namespace megalodon
