#include "models/ports.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "base/check.h"
#include "base/hash.h"
#include "base/json.h"
#include "io/bytes.h"
#include "models/published.h"
#include "models/published_names.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

constexpr int64_t kDefaultLayers = 12;  // of both ports

std::string surplus(const io::TensorView& view) {
  return fmt::format("surplus {} {}", view.name, io::shape_text(view.shape));
}

/// `tree` is the configuration as it was found, in `source`.
ModelContents contents_of(const MegalodonConfig& config, const Json& tree, PublishedNames names,
                          const io::TensorFile& file, const ProblemOfSurplus& problem_of_surplus,
                          const std::string& source) {
  io::TensorFile weights = io::with_context(fmt::format("[{}]", source), [&] {
    check_megalodon_sizes(file, names, config);
    return our_tensors(*config.build(), names, config, file, problem_of_surplus);
  });
  return {config.clone(), std::move(weights), {unknown_tokenizer(tree)}};
}

// ---- megalodon-hf ---------------------------------------------------------------------------------------------------

constexpr const char *kHfEmbedding = "model.embed.weight", *kHfOutput = "lm_head.weight";

MegalodonConfig config_from_hf(const Json& tree, const std::string& source) {
  MegalodonConfig config;
  config.num_layers = kDefaultLayers;
  read_known_fields([&](config::Visitor& v) { config.visit(v); }, tree, source);
  config.share_emb = config.outputs() == config.vocab_size;  // whatever the file says
  io::with_context(fmt::format("[{}]", source), [&] { config.validate(); });
  const std::map<std::string, Json> only = {
      {"efficient_attn", nullptr}, {"cache_unbounded", false}, {"max_cache_len", config.chunk_size}};
  for (const auto& [key, value] : only) {
    const Json found = tree.value(key, Json());
    check(found.is_null() || found == value, "[{}] {} = {} is not supported, only {}", source, key, found.dump(),
          value.dump());
  }
  return config;
}

/// With the tensors that the port does not store: a layer scale of 0.1 · 0.5^layer, which it does not train, and the
/// embedding where only its other name was kept.
io::TensorFile completed(const io::TensorFile& file, const MegalodonConfig& config) {
  TensorCollector all;
  for (const io::TensorView& view : file.tensors()) all.add(view);
  if (const io::TensorView* output = file.find(kHfOutput); config.share_emb && output != nullptr) {
    io::TensorView embedding = *output;
    embedding.name = kHfEmbedding;
    if (file.find(kHfEmbedding) == nullptr) all.add(std::move(embedding));
  }
  const int64_t layers = config.rescale_nffn ? std::min(config.num_layers, std::ssize(file.tensors())) : 0;
  for (int64_t i = 0; i < layers; ++i)
    if (const std::string name = fmt::format("model.layers.{}.ffn.alpha", i); file.find(name) == nullptr)
      all.add(name, torch::full({config.model_dim}, 0.1 * std::pow(0.5, static_cast<double>(i))));
  return all.file(file);
}

/// Biases that we do not have matter unless they are zero.
std::string problem_of_bias(const io::TensorView& view) {
  const double largest = view.bytes.empty() ? 0 : to_tensor(view).abs().max().item<double>();
  return largest == 0
             ? ""
             : fmt::format("{}: has no counterpart but zeros, and its largest value is {}", view.name, largest);
}

bool is_bias_of_port(const std::string& name) {
  return name.ends_with(".attn.wh2.bias") || name.ends_with(".ffn.fc1.bias") || name.ends_with(".ffn.fc2.bias") ||
         name.ends_with(".ffn.fc3.bias");
}

}  // namespace

bool is_megalodon_hf(const fs::path& folder) {
  if (!fs::exists(folder / "config.json") || !io::has_tensors(folder, "model")) return false;
  const Json tree = read_json_object(folder / "config.json");
  return !tree.contains("format") && tree.value("model_type", Json()) == "megalodon";
}

ModelContents read_megalodon_hf(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  const Json tree = read_json_object(path);
  const MegalodonConfig config = config_from_hf(tree, path.string());
  const io::TensorFile file = completed(io::read_tensors(folder, "model"), config);
  const auto problem_of_surplus = [&](const io::TensorView& view) {
    if (is_bias_of_port(view.name)) return problem_of_bias(view);
    if (config.share_emb && view.name == kHfOutput) return problem_of_tied(view, file, kHfEmbedding);
    return surplus(view);
  };
  return contents_of(config, tree, PublishedNames::kMegalodonHf, file, problem_of_surplus, folder.string());
}

// ---- megalodon-jax --------------------------------------------------------------------------------------------------

namespace {

using Metadata = std::map<std::string, std::string>;

/// Said of every checkpoint that the published function reads.
const Metadata& jax_layout() {
  static const Metadata kLayout = {{"format", "megalodon-jax"},
                                   {"format_version", "2"},
                                   {"rope_layout", "adjacent_pair"},
                                   {"normalization_storage", "plus_one"},
                                   {"bias_schema", "upstream"}};
  return kLayout;
}

const char* jax_dtype(io::Dtype dtype) {
  switch (dtype) {
    case io::Dtype::F32:
      return "float32";
    case io::Dtype::BF16:
      return "bfloat16";
    default:
      fail("[convert] the JAX port has tensors of float32 and bfloat16, found {}", io::dtype_name(dtype));
  }
}

/// SHA-256 of [[name,[shape],dtype],...] in the order of names.
std::string jax_manifest(const io::TensorFile& file) {
  std::map<std::string, Json> rows;
  for (const io::TensorView& view : file.tensors()) {
    Json row = Json::array();
    row.push_back(view.name), row.push_back(Json(view.shape)), row.push_back(jax_dtype(view.dtype));
    rows[view.name] = std::move(row);
  }
  Json manifest = Json::array();
  for (auto& [name, row] : rows) manifest.push_back(std::move(row));
  return sha256_hex(manifest.dump());
}

const char* jax_tying(const MegalodonConfig& config) {
  return config.share_emb ? "tied" : "untied";
}

MegalodonConfig config_from_jax(Json tree, const std::string& source) {
  const Json window = tree.value("attention_window", Json());
  check(window.is_null(), "[{}] attention_window = {} is not supported: a sliding window in place of chunks", source,
        window.dump());
  const Json mode = tree.value("attention_dropout_mode", Json("post_softmax"));
  const bool drops = tree.value("attention_dropout", Json(0)) != 0;
  check(mode == "post_softmax" || !drops, "[{}] attention_dropout_mode = {} is not supported, only post_softmax",
        source, mode.dump());
  if (!tree.contains("num_layers")) tree["num_layers"] = kDefaultLayers;
  return config_from_published(std::move(tree),
                               {"attention_window", "attention_dropout_mode", "pad_token_id", "bos_token_id",
                                "eos_token_id", "use_checkpoint", "use_associative_segment_scan", "param_dtype",
                                "compute_dtype", "accum_dtype", "attention_softmax_dtype", "loss_softmax_dtype"},
                               source);
}

/// The keys sorted, as the fingerprint wants them.
std::string jax_config(const MegalodonConfig& config, const TokenizerParts& tokenizer) {
  check(config.init_mode != "none", "[convert] the JAX port has no init_mode none");
  MegalodonConfig copy = config;
  nlohmann::json tree = config::write(copy);
  for (const char* key : kSpecialTokens) tree[key] = tokenizer.description.value(key, Json());
  tree["attention_window"] = nullptr, tree["attention_dropout_mode"] = "post_softmax";
  tree["use_checkpoint"] = false, tree["use_associative_segment_scan"] = true;
  for (const char* key :
       {"param_dtype", "compute_dtype", "accum_dtype", "attention_softmax_dtype", "loss_softmax_dtype"})
    tree[key] = "float32";
  return tree.dump();
}

io::TensorFile in_float32(const io::TensorFile& file) {
  TensorCollector wide;
  for (const io::TensorView& view : file.tensors())
    if (view.dtype == io::Dtype::F32)
      wide.add(view);
    else
      wide.add(view.name, to_tensor(view).to(torch::kFloat32));
  return wide.file(file);
}

fs::path jax_file(const fs::path& path) {
  return fs::is_directory(path) ? path / "model.safetensors" : path;
}

}  // namespace

bool is_megalodon_jax(const fs::path& path) {
  if (!fs::is_directory(path)) return fs::is_regular_file(path) && path.extension() == ".safetensors";
  return fs::is_regular_file(jax_file(path)) && !fs::exists(path / "config.json");
}

ModelContents read_megalodon_jax(const fs::path& path) {
  const std::string source = jax_file(path).string();
  const io::TensorFile file = io::read_safetensors(source);
  const auto said = [&](const std::string& key) {
    const auto found = file.metadata().find(key);
    check(found != file.metadata().end(), "[{}] metadata: {} is missing", source, key);
    return found->second;
  };
  const auto must_be = [&](const std::string& key, const std::string& expected) {
    check(said(key) == expected, "[{}] metadata: expected {} to be {}, got {}", source, key, expected, said(key));
  };
  for (const auto& [key, expected] : jax_layout()) must_be(key, expected);
  must_be("config_fingerprint", sha256_hex(said("config_json")));
  must_be("parameter_manifest_sha256", jax_manifest(file));
  const std::string place = source + ": config_json";
  const Json tree = parse_json<Json>(said("config_json"), place);
  check(tree.is_object(), "[{}] expected a JSON object", place);
  const MegalodonConfig config = config_from_jax(tree, place);
  must_be("tying", jax_tying(config));
  return contents_of(config, tree, PublishedNames::kMegalodonJax, file, surplus, source);
}

void write_megalodon_jax(const ModelContents& contents, const fs::path& folder) {
  const auto& config = dynamic_cast<const MegalodonConfig&>(*contents.config);
  const io::TensorFile file = their_tensors(in_float32(contents.weights), PublishedNames::kMegalodonJax, config);
  Metadata metadata = jax_layout();
  metadata["config_json"] = jax_config(config, contents.tokenizer);
  metadata["config_fingerprint"] = sha256_hex(metadata["config_json"]);
  metadata["parameter_manifest_sha256"] = jax_manifest(file);
  metadata["initializer_schema"] = "split-boundary-internal-v1";
  metadata["tying"] = jax_tying(config);
  metadata["dtype_policy"] = "fp32-params-fp32-or-bf16-compute";
  io::write_safetensors(jax_file(folder), file.tensors(), metadata);
}

}  // namespace megalodon
