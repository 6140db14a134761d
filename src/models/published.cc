#include "models/published.h"

#include "base/check.h"
#include "io/bytes.h"
#include "ops/rotary/rotary.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

const char* dtype_label(io::Dtype dtype) {
  switch (dtype) {
    case io::Dtype::BF16:
      return "bf16";
    case io::Dtype::F16:
      return "fp16";
    default:
      return "fp32";
  }
}

}  // namespace

MegalodonConfig config_from_published(Json tree, std::initializer_list<const char*> others, const std::string& source) {
  for (const char* key : others) tree.erase(key);
  MegalodonConfig config;
  config::read(config, tree, {}, source);
  io::with_context(fmt::format("[{}]", source), [&] { config.validate(); });
  return config;
}

void check_megalodon_sizes(const io::TensorFile& file, PublishedNames names, const MegalodonConfig& config) {
  const int64_t D = config.model_dim;
  NamedShapes shapes = {{"embed.weight", {config.vocab_size, D}},
                        {"layers.0.mega.wz.weight", {config.z_dim, D}},
                        {"layers.0.mega.wv.weight", {config.value_dim, D}},
                        {"layers.0.mega.cema.alpha", {D, config.cema_ndim, 1}},
                        {"layers.0.nffn.fc1.weight", {config.ffn_hidden_dim, D}}};
  if (!config.share_emb) shapes.push_back({"output.output.weight", {config.outputs(), D}});
  check_sizes(file, names, config, config.num_layers, shapes);
}

bool is_published(const fs::path& folder) {
  return fs::exists(folder / "consolidated.pth") || fs::exists(folder / "consolidated.00.pth");
}

ModelContents read_published(const fs::path& folder) {
  check(!fs::exists(folder / "consolidated.00.pth"),
        "[{}] holds model-parallel shards (consolidated.00.pth, …); merge them into one consolidated.pth first",
        folder.string());
  const fs::path path = folder / "config.json";
  const Json tree = read_json_object(path);
  check(tree.contains("model") && tree["model"].is_object(), "[{}] expected the hyperparameters under \"model\"",
        path.string());
  // These choose kernels and memory, not functions.
  auto config = std::make_unique<MegalodonConfig>(
      config_from_published(tree["model"], {"efficient_attn", "layerwise_ckpt"}, path.string()));
  const io::TensorFile file = io::read_torch_file(folder / "consolidated.pth");
  io::TensorFile weights = io::with_context(fmt::format("[{}]", folder.string()), [&] {
    check_megalodon_sizes(file, PublishedNames::kMegalodon, *config);
    return parameters_of(*config, file);
  });
  ModelContents contents{std::move(config), std::move(weights)};
  if (tree.contains("tokenizer") && tree["tokenizer"].is_object() && tree["tokenizer"].contains("path"))
    contents.tokenizer.description["published_path"] = tree["tokenizer"]["path"];
  return contents;
}

void write_published(const ModelContents& contents, const fs::path& folder) {
  auto config = dynamic_cast<const MegalodonConfig&>(*contents.config);
  TensorCollector state;
  const auto add_priors = [&](const std::string& norm) {
    state.add(norm + ".prior_count", torch::zeros({}, torch::kInt64));
    state.add(norm + ".prior_mean", torch::zeros({config.norm_num_groups}));
    state.add(norm + ".prior_logv", torch::zeros({config.norm_num_groups}));
  };
  for (const io::TensorView& view : contents.weights.tensors()) {
    state.add(view);
    const std::string& name = view.name;
    if (name == "embed.weight")
      state.add("rope.freqs", ops::rotary_frequencies(config.z_dim / config.num_heads, config.rope_base));
    if (name.ends_with(".timenorm.bias") || name == "output.final_norm.bias")
      add_priors(name.substr(0, name.rfind('.')));
  }
  if (config.share_emb) {
    io::TensorView tied = *contents.weights.find("embed.weight");
    tied.name = "output.output.weight";
    state.add(tied);
  }

  Json hyperparameters = config::write(config);
  if (config.rope_base == MegalodonConfig().rope_base) hyperparameters["rope_base"] = nullptr;
  hyperparameters["efficient_attn"] = nullptr;
  hyperparameters["layerwise_ckpt"] = false;
  const Json path = contents.tokenizer.description.value("published_path", Json());
  const Json published = {{"model", hyperparameters},
                          {"tokenizer", {{"path", path}, {"additional_vocab_size", 0}, {"data_tokenized", false}}},
                          {"model_parallel_size", 1},
                          {"chunk_parallel_size", 1}};
  const io::TensorFile file = state.file(contents.weights);
  io::write_torch_file(folder / "consolidated.pth", file.tensors());
  write_file_atomically(folder / "config.json", published.dump(1) + "\n");
  write_file_atomically(
      folder / "consolidate_config.json",
      Json{{"model_parallel_size", 1}, {"dtype", dtype_label(file.find("embed.weight")->dtype)}}.dump(1) + "\n");
}

}  // namespace megalodon
