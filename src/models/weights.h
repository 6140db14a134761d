// Models as folders: model.safetensors + config.json.
//
//   config.json  {"format": "megalodon.cpp", "format_version": 1, "model_type": "megalodon", <hyperparameters>,
//                 "tokenizer": {"type": "bytes"}}
//
// Tensor names are those of the published state dict; a tied output matrix is stored once.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>

#include "io/tensor_file.h"
#include "models/model.h"

namespace megalodon {

torch::ScalarType to_torch(io::Dtype dtype);
io::Dtype from_torch(torch::ScalarType dtype);
/// An owning copy.
Tensor to_tensor(const io::TensorView& view);
/// A view of the tensor's memory, which must be contiguous, on the CPU, and outlive it.
io::TensorView to_view(const std::string& name, const Tensor& tensor);

/// Parameters by name, tied ones once, in the order of the architecture.
std::vector<std::pair<std::string, Tensor>> named_weights(const Model& model);

/// Copies tensors into the parameters (converting dtypes). Throws Error listing every missing, surplus and misshapen
/// name.
void load_weights(Model& model, const io::TensorFile& file);

struct LoadedModel {
  std::unique_ptr<Model> model;
  nlohmann::ordered_json tokenizer;  // as in config.json
  fs::path folder;                   // where the tokenizer's file is, if it has one
};

/// A run folder stands for its latest checkpoint; any other folder for itself.
fs::path model_folder(const fs::path& folder);

/// From model_folder(folder). In evaluation mode.
LoadedModel load_model(const fs::path& folder);
/// Writes model.safetensors and config.json into an existing folder.
void save_model(const Model& model, const nlohmann::ordered_json& tokenizer, const fs::path& folder);

/// The text of config.json.
std::string config_json(const ModelConfig& config, const nlohmann::ordered_json& tokenizer);

/// config.json of a folder -> hyperparameters and tokenizer, without the weights.
std::pair<std::unique_ptr<ModelConfig>, nlohmann::ordered_json> load_config(const fs::path& folder);

}  // namespace megalodon
