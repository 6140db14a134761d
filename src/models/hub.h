// Folders of Hugging Face's transformers: config.json, model.safetensors or its shards. Llama and MPT.
#pragma once

#include <nlohmann/json.hpp>

#include "models/model_contents.h"
#include "models/published_names.h"

namespace megalodon {

/// The hyperparameters of a config.json with "model_type" llama or mpt. Throws Error for another and for switches that
/// TransformerConfig does not have.
TransformerConfig config_from_hub(const nlohmann::ordered_json& config, const std::string& source);
PublishedNames names_of_hub(const nlohmann::ordered_json& config, const std::string& source);
/// The config.json that config_from_hub() reads as this one: llama's for rotary positions, mpt's for all others. Throws
/// Error that names every field which cannot be said there. What only training looks at is no part of it: dropout but
/// attention's, initial values.
nlohmann::ordered_json config_to_hub(const TransformerConfig& config);

/// Whether the folder's config.json has a "model_type" that config_from_hub() reads.
bool is_hub(const fs::path& folder);
/// The tokenizer's description keeps the ids of special tokens for the way back.
ModelContents read_hub(const fs::path& folder);
/// A Transformer, into an existing folder. Throws Error for one that config_to_hub() refuses. Norms are rounded where
/// the dtype of the matrices and float32 cannot hold them plus one.
void write_hub(const ModelContents& contents, const fs::path& folder, uint64_t max_shard_bytes);

}  // namespace megalodon
