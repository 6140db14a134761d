#include "models/published.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/json.h"
#include "models/megalodon.h"
#include "ops/rotary/rotary.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

Json read_json(const fs::path& path) {
  Json tree = parse_json<Json>(read_file(path), path.string());
  check(tree.is_object(), "[{}] expected a JSON object", path.string());
  return tree;
}

/// The published keys are ours; efficient_attn and layerwise_ckpt choose kernels and memory, not functions.
MegalodonConfig config_from(Json model, const std::string& source) {
  for (const char* key : {"efficient_attn", "layerwise_ckpt"}) model.erase(key);
  MegalodonConfig config;
  config::read(config, model, {}, source);
  config.validate();
  return config;
}

const char* dtype_label(const io::TensorFile& file) {
  const io::TensorView* embedding = file.find("embed.weight");
  check(embedding != nullptr, "[published] the state dict has no embed.weight");
  switch (embedding->dtype) {
    case io::Dtype::BF16:
      return "bf16";
    case io::Dtype::F16:
      return "fp16";
    default:
      return "fp32";
  }
}

/// export_published() of a folder that stays.
void export_folder(const fs::path& source, const fs::path& target) {
  verify_model(source);
  const FolderConfig loaded = load_config(source);
  refuse_quantized(source, loaded);
  const auto* config = dynamic_cast<const MegalodonConfig*>(loaded.model.get());
  check(config != nullptr, "[{}] only Megalodon models have a published form, this is \"{}\"", source.string(),
        loaded.model->architecture());
  const io::TensorFile file = io::read_tensors(source, "model");
  const auto model = config->build();
  check_weights(*model, file);

  std::vector<io::TensorView> views;
  std::vector<Tensor> buffers;  // own the memory of what is written besides the parameters
  const auto add_buffer = [&](const std::string& name, const Tensor& value) {
    views.push_back(to_view(name, buffers.emplace_back(value)));
  };
  const auto add_priors = [&](const std::string& norm) {
    add_buffer(norm + ".prior_count", torch::zeros({}, torch::kInt64));
    add_buffer(norm + ".prior_mean", torch::zeros({config->norm_num_groups}));
    add_buffer(norm + ".prior_logv", torch::zeros({config->norm_num_groups}));
  };
  for (const auto& [name, parameter] : named_weights(*model)) {
    views.push_back(*file.find(name));
    if (name == "embed.weight")
      add_buffer("rope.freqs", ops::rotary_frequencies(config->z_dim / config->num_heads, config->rope_base));
    const std::string bias = ".bias",
                      norm_bias = name.size() > bias.size() ? name.substr(0, name.size() - bias.size()) : "";
    if (name == norm_bias + bias && (norm_bias.ends_with(".timenorm") || norm_bias == "output.final_norm"))
      add_priors(norm_bias);
  }
  if (config->share_emb) {
    io::TensorView tied = *file.find("embed.weight");
    tied.name = "output.output.weight";
    views.push_back(tied);
  }

  MegalodonConfig copy = *config;
  Json hyperparameters = config::write(copy);
  if (config->rope_base == MegalodonConfig().rope_base) hyperparameters["rope_base"] = nullptr;
  hyperparameters["efficient_attn"] = nullptr;
  hyperparameters["layerwise_ckpt"] = false;
  const Json path = loaded.tokenizer.value("published_path", Json());
  const Json published = {{"model", hyperparameters},
                          {"tokenizer", {{"path", path}, {"additional_vocab_size", 0}, {"data_tokenized", false}}},
                          {"model_parallel_size", 1},
                          {"chunk_parallel_size", 1}};
  write_folder_atomically(target, [&](const fs::path& folder) {
    io::write_torch_file(folder / "consolidated.pth", views);
    write_file_atomically(folder / "config.json", published.dump(1) + "\n");
    write_file_atomically(folder / "consolidate_config.json",
                          Json{{"model_parallel_size", 1}, {"dtype", dtype_label(file)}}.dump(1) + "\n");
  });
}

}  // namespace

bool is_published(const fs::path& folder) {
  return fs::exists(folder / "consolidated.pth") || fs::exists(folder / "consolidated.00.pth");
}

void import_published(const fs::path& source, const fs::path& target, Json tokenizer,
                      const std::vector<TextPart>& files) {
  check(!fs::exists(source / "consolidated.00.pth"),
        "[{}] holds model-parallel shards (consolidated.00.pth, …); merge them into one consolidated.pth first",
        source.string());
  const Json tree = read_json(source / "config.json");
  check(tree.contains("model") && tree["model"].is_object(), "[{}] expected the hyperparameters under \"model\"",
        (source / "config.json").string());
  const MegalodonConfig config = config_from(tree["model"], (source / "config.json").string());
  const int64_t tokens = tokenizer.value("vocabulary", int64_t{0});
  check(tokens <= config.vocab_size, "[convert] the tokenizer has {} tokens, but the model in {} reads {}", tokens,
        source.string(), config.vocab_size);
  const io::TensorFile file = io::read_torch_file(source / "consolidated.pth");

  // A model of the configuration proves that the result loads before anything is written. Its parameters are address
  // space that nobody touches, so a model of any size costs no memory here.
  const auto model = config.build();
  check_weights(*model, file);
  std::vector<io::TensorView> views;
  for (const auto& [name, parameter] : named_weights(*model)) views.push_back(*file.find(name));

  // Kept for the way back: where the published code finds its SentencePiece model.
  if (tree.contains("tokenizer") && tree["tokenizer"].is_object() && tree["tokenizer"].contains("path"))
    tokenizer["published_path"] = tree["tokenizer"]["path"];
  write_folder_atomically(target, [&](const fs::path& folder) {
    io::write_tensors(folder, "model", views);
    write_file_atomically(folder / "config.json", config_json(config, tokenizer));
    for (const TextPart& file : files) write_file_atomically(folder / file.name, file.text);
  });
}

void export_published(const fs::path& path, const fs::path& target) {
  with_model_folder(path, [&](const fs::path& source) { export_folder(source, target); });
}

}  // namespace megalodon
