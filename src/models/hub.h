// Transformers under the names that others gave their parameters, and in the folders of Hugging Face's transformers:
// config.json, model.safetensors or its shards. Llama and MPT.
#pragma once

#include <nlohmann/json.hpp>

#include "models/transformer.h"
#include "models/weights.h"

namespace megalodon {

enum class TransformerNames {
  kLlama,         // Llama 2's own code: layers.0.attention.wq.weight
  kHubLlama,      // model.layers.0.self_attn.q_proj.weight
  kHubMpt,        // transformer.blocks.0.attn.Wqkv.weight
  kTorchEncoder,  // torch.nn.TransformerEncoder: layers.0.self_attn.in_proj_weight
  kTorchDecoder,  // torch.nn.TransformerDecoder, which has multihead_attn too
};

/// Where one of our parameters is in such a state dict.
struct PublishedPart {
  std::string name = {};
  char of_fused = 0;          // 'q', 'k' or 'v': some rows of a matrix of all three
  bool plus_one = false;      // a norm's weight, which is stored there as it is multiplied with
  bool half_rotated = false;  // rows of a head are there in the order 0, 2, 4, …, 1, 3, 5, …
};

/// `ours` is of a language model or stack, or (without "layers.<i>.") of a layer. Throws Error for a name that no such
/// parameter has.
PublishedPart published_part(TransformerNames names, const std::string& ours);
/// The rows of a published parameter that are ours, in our order; ones are not subtracted.
Tensor our_rows(const Tensor& published, const PublishedPart& part, const TransformerLayerConfig& layer);
/// The inverse: writes our rows where they belong.
void write_our_rows(const Tensor& ours, const PublishedPart& part, const TransformerLayerConfig& layer,
                    const Tensor& published);

/// The hyperparameters of a config.json with "model_type" llama or mpt. Throws Error for another and for switches that
/// TransformerConfig does not have.
TransformerConfig config_from_hub(const nlohmann::ordered_json& config, const std::string& source);
TransformerNames names_of_hub(const nlohmann::ordered_json& config, const std::string& source);

/// Whether the folder's config.json has a "model_type" that config_from_hub() reads.
bool is_hub(const fs::path& folder);
/// Reads such a folder and writes ours into `target` (atomically), matrices in the dtype of the source, norms in
/// float32. `tokenizer` and `files` as in import_published().
void import_hub(const fs::path& source, const fs::path& target, nlohmann::ordered_json tokenizer = {{"type", "none"}},
                const std::vector<TextPart>& files = {});

}  // namespace megalodon
