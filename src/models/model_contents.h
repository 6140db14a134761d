// A model on its way from one kind of folder to another: configuration, parameters, tokenizer. The parameters are those
// of a file, mapped into memory; a model of any size that only changes its names costs none.
#pragma once

#include <array>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "models/weights.h"

namespace megalodon {

/// What a model folder keeps of its tokenizer.
struct TokenizerParts {
  nlohmann::ordered_json description = {{"type", "none"}};  // as config.json has it
  std::vector<TextPart> files = {};                         // what it needs beside it
};

/// Ids of special tokens in a config.json of others: a number, a list of them, or null. Descriptions of tokenizers have
/// those that are not null under the same keys, for the way back.
inline constexpr std::array kSpecialTokens = {"bos_token_id", "eos_token_id", "pad_token_id"};
/// The description of a tokenizer of which a config.json of others says no more than special tokens.
nlohmann::ordered_json unknown_tokenizer(const nlohmann::ordered_json& config);

struct ModelContents {
  std::unique_ptr<ModelConfig> config;
  io::TensorFile weights;  // the parameters of config->build(), tied ones once, in its order
  TokenizerParts tokenizer = {};
};

/// Tensors for a file: views of another's memory, or tensors of their own.
class TensorCollector {
 public:
  void add(io::TensorView view) { views_.push_back(std::move(view)); }
  void add(const std::string& name, const Tensor& tensor);
  /// What was added, in its order. `source` keeps the memory of the views.
  io::TensorFile file(const io::TensorFile& source) const;

 private:
  std::vector<io::TensorView> views_;
  std::vector<Tensor> tensors_;
};

/// The model's parameters out of a file that has them under our names. Throws Error as check_weights() does.
io::TensorFile parameters_of(const ModelConfig& config, const io::TensorFile& file);

/// Our folder, as load_model() takes it, without the tokenizer's files.
ModelContents read_ours(const fs::path& path);
/// Into an existing folder.
void write_ours(const ModelContents& contents, const fs::path& folder, uint64_t max_shard_bytes);

void write_texts(const std::vector<TextPart>& texts, const fs::path& folder);

/// The model itself, in evaluation mode.
std::unique_ptr<Model> model_of(const ModelContents& contents);

/// An object. Throws Error that names the file.
nlohmann::ordered_json read_json_object(const fs::path& path);

/// Reads the fields that an object has. It may have others: most of what other code writes into a config.json says
/// nothing about the model. Throws UsageError as config::read() does.
void read_known_fields(const config::Visit& visit, const nlohmann::ordered_json& tree, const std::string& source);

}  // namespace megalodon
