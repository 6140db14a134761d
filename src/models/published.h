// The published code's checkpoint folders: consolidated.pth (a pickled state dict), config.json with the
// hyperparameters under "model", consolidate_config.json.
#pragma once

#include "models/model_contents.h"
#include "models/published_names.h"

namespace megalodon {

/// Of hyperparameters under the published keys, which are ours, beside `others`, which say nothing about the function.
/// Throws UsageError for a key that is none of both.
MegalodonConfig config_from_published(nlohmann::ordered_json tree, std::initializer_list<const char*> others,
                                      const std::string& source);

/// check_sizes() of every size that the configuration says.
void check_megalodon_sizes(const io::TensorFile& file, PublishedNames names, const MegalodonConfig& config);

bool is_published(const fs::path& folder);
/// In the dtype of the source. The published form does not say what the tokens are; where its SentencePiece model is,
/// it does: "published_path" of `tokenizer`, kept for the way back.
ModelContents read_published(const fs::path& folder);
/// A Megalodon, into an existing folder; the result loads in the published code.
void write_published(const ModelContents& contents, const fs::path& folder);

}  // namespace megalodon
