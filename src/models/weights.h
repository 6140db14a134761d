// Models as folders: model.safetensors (or its shards, see io/tensor_folder.h) + config.json.
//
//   config.json  {"format": "megalodon.cpp", "format_version": 1, "model_type": "megalodon", <hyperparameters>,
//                 "tokenizer": {"type": "bytes"}}
//
// Tensor names are those of the published state dict; a tied output matrix is stored once.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "models/folder_parts.h"
#include "models/model.h"

namespace megalodon {

torch::ScalarType to_torch(io::Dtype dtype);
io::Dtype from_torch(torch::ScalarType dtype);
/// An owning copy.
Tensor to_tensor(const io::TensorView& view);
/// A view of the tensor's memory, which must be contiguous, on the CPU, and outlive it.
io::TensorView to_view(const std::string& name, const Tensor& tensor);

/// Parameters by name, tied ones once, in the order of the architecture.
NamedTensors named_weights(const torch::nn::Module& model);
/// These, and the buffers behind them: running statistics, which are no parameters and yet part of what was learnt.
NamedTensors named_state(const torch::nn::Module& model);

/// Why the file's tensor (null: there is none) cannot fill a parameter of that shape; "" if it can.
std::string problem_of_parameter(const io::TensorView* view, const std::string& name, torch::IntArrayRef shape);
/// Throws Error listing those that are not "".
void check_no_problems(std::vector<std::string> problems);
/// Throws Error listing every name that is missing, surplus, misshapen or of a wrong type. Reads no parameter's memory.
void check_weights(const Model& model, const io::TensorFile& file);
/// After check_weights(), copies the tensors into the parameters (converting dtypes).
void load_weights(Model& model, const io::TensorFile& file);
/// The same for what is no language model: the tensors of named_state(), neither more nor fewer.
void load_state(torch::nn::Module& model, const io::TensorFile& file);

/// The model_type of classifiers, see models/classifier_folder.h; a language model's is its architecture.
inline constexpr const char* kClassifierType = "classifier";

struct LoadedModel {
  std::unique_ptr<Model> model;
  nlohmann::ordered_json tokenizer;  // as in config.json
};

/// A run folder stands for its latest checkpoint; any other folder for itself.
fs::path model_folder(const fs::path& folder);
/// Differs between two contents that were published under the same name: the text of the manifest; "" without one.
std::string folder_identity(const fs::path& folder);

/// use(model_folder(path)), and again where that failed because the run moved on to another checkpoint meanwhile and
/// deleted this one.
template <class Use>
auto with_model_folder(const fs::path& path, const Use& use) {
  constexpr int kAttempts = 100;
  for (int attempt = 1;; ++attempt) {
    const fs::path folder = model_folder(path);
    const std::string identity = folder_identity(folder);
    try {
      return use(folder);
    } catch (const std::exception&) {
      if (attempt == kAttempts || (model_folder(path) == folder && folder_identity(folder) == identity)) throw;
    }
  }
}

/// Compares the model's files with the folder's manifest, if it has one.
void verify_model(const fs::path& folder);

/// From model_folder(folder), after verify_model(): a copy in evaluation mode. Throws Error for a quantized folder
/// (models/fixed_model.h), which has no parameters to train or to convert.
LoadedModel load_model(const fs::path& folder);
/// model.safetensors and config.json.
FolderParts model_parts(const ModelConfig& config, NamedTensors weights, const nlohmann::ordered_json& tokenizer);
/// Writes them into an existing folder.
void save_model(const Model& model, const nlohmann::ordered_json& tokenizer, const fs::path& folder);

/// The hyperparameters.
config::Tree fields_of(const ModelConfig& config);

/// The text of config.json; `matrices` is that of models/fixed_model.h.
std::string config_json(const ModelConfig& config, const nlohmann::ordered_json& tokenizer,
                        std::optional<ops::FixedType> matrices = {});

/// config.json of a folder, without the weights.
struct FolderConfig {
  std::unique_ptr<ModelConfig> model;
  nlohmann::ordered_json tokenizer;
  std::optional<ops::FixedType> matrices;  // of a quantized folder
};
FolderConfig load_config(const fs::path& folder);
/// config.json of a folder of ours, of any model_type. Throws Error where it is none.
nlohmann::ordered_json read_config_json(const fs::path& folder);
/// Throws Error for a quantized folder.
void refuse_quantized(const fs::path& folder, const FolderConfig& config);

}  // namespace megalodon
