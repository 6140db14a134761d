#include "models/model_contents.h"

#include "base/check.h"
#include "base/json.h"
#include "io/bytes.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

/// The keys that both objects have, of their objects too.
Json common_keys(const Json& tree, const Json& known) {
  Json common = Json::object();
  for (const auto& [key, value] : known.items()) {
    if (!tree.contains(key)) continue;
    const Json& there = tree[key];
    common[key] = value.is_object() && there.is_object() ? common_keys(there, value) : there;
  }
  return common;
}

}  // namespace

void TensorCollector::add(const std::string& name, const Tensor& tensor) {
  views_.push_back(to_view(name, tensors_.emplace_back(tensor.contiguous())));
}

io::TensorFile TensorCollector::file(const io::TensorFile& source) const {
  return {views_,
          {},
          {std::make_shared<const io::TensorFile>(source), std::make_shared<const std::vector<Tensor>>(tensors_)}};
}

io::TensorFile parameters_of(const ModelConfig& config, const io::TensorFile& file) {
  // Its parameters are address space that nobody touches, so a model of any size costs no memory here.
  const auto model = config.build();
  check_weights(*model, file);
  TensorCollector parameters;
  for (const auto& [name, parameter] : named_weights(*model)) parameters.add(*file.find(name));
  return parameters.file(file);
}

ModelContents read_ours(const fs::path& path) {
  return with_model_folder(path, [](const fs::path& folder) {
    verify_model(folder);
    FolderConfig config = load_config(folder);
    refuse_quantized(folder, config);
    io::TensorFile weights = io::with_context(fmt::format("[{}]", folder.string()), [&] {
      return parameters_of(*config.model, io::read_tensors(folder, "model"));
    });
    return ModelContents{std::move(config.model), std::move(weights), {config.tokenizer}};
  });
}

void write_texts(const std::vector<TextPart>& texts, const fs::path& folder) {
  for (const TextPart& text : texts) write_file_atomically(folder / text.name, text.text);
}

void write_ours(const ModelContents& contents, const fs::path& folder, uint64_t max_shard_bytes) {
  io::write_tensors(folder, "model", contents.weights.tensors(), max_shard_bytes);
  write_file_atomically(folder / "config.json", config_json(*contents.config, contents.tokenizer.description));
  write_texts(contents.tokenizer.files, folder);
}

std::unique_ptr<Model> model_of(const ModelContents& contents) {
  auto model = contents.config->build();
  load_weights(*model, contents.weights);
  model->eval();
  return model;
}

Json read_json_object(const fs::path& path) {
  Json tree = parse_json<Json>(read_file(path), path.string());
  check(tree.is_object(), "[{}] expected a JSON object", path.string());
  return tree;
}

Json unknown_tokenizer(const Json& config) {
  Json description = TokenizerParts().description;
  for (const char* key : kSpecialTokens)
    if (const Json token = config.value(key, Json()); !token.is_null()) description[key] = token;
  return description;
}

void read_known_fields(const config::Visit& visit, const Json& tree, const std::string& source) {
  config::read(visit, common_keys(tree, config::write(visit)), {}, source);
}

}  // namespace megalodon
