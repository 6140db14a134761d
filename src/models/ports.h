// Checkpoints of two ports of Megalodon by others.
//
//   megalodon-hf   a folder of Hugging Face's kind: config.json with "model_type" megalodon, model.safetensors or its
//                  shards. It rotates halves of a head where the published code rotates neighbours, stores the scale of
//                  the feed-forward norm itself, ties whenever the sizes allow, has biases more, does not train the
//                  layer scale, and its timestep norm divides by another variance, which no weights can repair.
//   megalodon-jax  one safetensors file whose metadata hold configuration and hashes. The published function.
#pragma once

#include "models/model_contents.h"

namespace megalodon {

bool is_megalodon_hf(const fs::path& folder);
/// Computes here what the published code would with such weights, which is not what the port does: kMegalodonHfNorm.
/// Throws Error for what has no counterpart: biases that are not zero, an attention cache of another length.
ModelContents read_megalodon_hf(const fs::path& folder);
inline constexpr const char* kMegalodonHfNorm =
    "the timestep norm of the Hugging Face port divides by the variance of the groups' means alone, where the "
    "published "
    "one has that of all features since the beginning (0.711 and 3.475 of one group of 8 after 6 tokens): its weights "
    "compute something else here than there";

/// A file, or a folder with it as model.safetensors and nothing else.
bool is_megalodon_jax(const fs::path& path);
/// Throws Error where metadata and content disagree, for a layout that is not the published one, and for attention over
/// a sliding window.
ModelContents read_megalodon_jax(const fs::path& path);
/// A Megalodon, into an existing folder, in float32, as the port wants it.
void write_megalodon_jax(const ModelContents& contents, const fs::path& folder);

}  // namespace megalodon
