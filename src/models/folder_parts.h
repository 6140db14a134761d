// What a model folder or a checkpoint consists of, before it is files. Whoever has something to keep adds a part; who
// writes, shards, hashes or copies parts need not know what they are.
//
//   FolderParts parts = model_parts(config, named_weights(model), tokenizer);     model.safetensors, config.json
//   parts.tensors.push_back({"carry", carry});                                    carry.safetensors
//   parts.add("ema", model_parts(config, averages, tokenizer));                   ema/model.safetensors,
//   ema/config.json
//
// io::read_tensors(folder, "carry") reads a part back.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <utility>
#include <vector>

#include "io/tensor_folder.h"
#include "models/model.h"

namespace megalodon {

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;

/// "carry" -> carry.safetensors, or shards of it where it is large; "ema/model" lies in a subfolder.
struct TensorPart {
  std::string name;
  NamedTensors tensors;  // contiguous, on any device
};

/// A small file: "config.json".
struct TextPart {
  std::string name, text;
};

struct FolderParts {
  std::vector<TensorPart> tensors;
  std::vector<TextPart> texts;

  /// All of `parts`, in a subfolder.
  void add(const std::string& subfolder, FolderParts parts);
};

/// Writes every part into the existing folder. Returns the files' sums, for write_manifest().
std::vector<FileSum> write_parts(const FolderParts& parts, const fs::path& folder,
                                 uint64_t max_shard_bytes = io::kMaxShardBytes);

}  // namespace megalodon
