#include "models/hub.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "base/check.h"
#include "base/json.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

namespace {

/// A beginning of our names and what it is there.
struct Renaming {
  const char *ours, *published;
  PublishedPart part = {};
};

struct Naming {
  const char* layers;  // what "layers." is
  std::vector<Renaming> outside, inside;
};

const PublishedPart kNorm{.plus_one = true};
const PublishedPart kRotated{.half_rotated = true};

/// The norms have numbers there, in the order of the branches.
std::vector<Renaming> torch_layer(const char* ffn_norm) {
  return {{"attention.wq.", "self_attn.in_proj_", {.of_fused = 'q'}},
          {"attention.wk.", "self_attn.in_proj_", {.of_fused = 'k'}},
          {"attention.wv.", "self_attn.in_proj_", {.of_fused = 'v'}},
          {"attention.wo.", "self_attn.out_proj."},
          {"cross.wq.", "multihead_attn.in_proj_", {.of_fused = 'q'}},
          {"cross.wk.", "multihead_attn.in_proj_", {.of_fused = 'k'}},
          {"cross.wv.", "multihead_attn.in_proj_", {.of_fused = 'v'}},
          {"cross.wo.", "multihead_attn.out_proj."},
          {"feed_forward.w1.", "linear1."},
          {"feed_forward.w2.", "linear2."},
          {"attention_norm.", "norm1.", kNorm},
          {"cross_norm.", "norm2.", kNorm},
          {"feed_forward_norm.", ffn_norm, kNorm}};
}

const Naming& naming(TransformerNames names) {
  static const std::map<TransformerNames, Naming> kNamings = {
      {TransformerNames::kLlama,
       {"layers.",
        {{"embed.", "tok_embeddings."}, {"output.final_norm.", "norm.", kNorm}, {"output.output.", "output."}},
        {{"attention_norm.", "attention_norm.", kNorm},
         {"feed_forward_norm.", "ffn_norm.", kNorm},
         {"attention.", "attention."},
         {"feed_forward.", "feed_forward."}}}},
      {TransformerNames::kHubLlama,
       {"model.layers.",
        {{"embed.", "model.embed_tokens."},
         {"output.final_norm.", "model.norm.", kNorm},
         {"output.output.", "lm_head."}},
        {{"attention_norm.", "input_layernorm.", kNorm},
         {"feed_forward_norm.", "post_attention_layernorm.", kNorm},
         {"attention.wq.", "self_attn.q_proj.", kRotated},
         {"attention.wk.", "self_attn.k_proj.", kRotated},
         {"attention.wv.", "self_attn.v_proj."},
         {"attention.wo.", "self_attn.o_proj."},
         {"feed_forward.w1.", "mlp.gate_proj."},
         {"feed_forward.w2.", "mlp.down_proj."},
         {"feed_forward.w3.", "mlp.up_proj."}}}},
      {TransformerNames::kHubMpt,
       {"transformer.blocks.",
        {{"embed.", "transformer.wte."},
         {"positions.", "transformer.wpe."},
         {"output.final_norm.", "transformer.norm_f.", kNorm},
         {"output.output.", "lm_head."}},
        {{"attention_norm.", "norm_1.", kNorm},
         {"feed_forward_norm.", "norm_2.", kNorm},
         {"attention.wq.", "attn.Wqkv.", {.of_fused = 'q'}},
         {"attention.wk.", "attn.Wqkv.", {.of_fused = 'k'}},
         {"attention.wv.", "attn.Wqkv.", {.of_fused = 'v'}},
         {"attention.wo.", "attn.out_proj."},
         {"attention.q_norm.", "attn.q_ln.", kNorm},
         {"attention.k_norm.", "attn.k_ln.", kNorm},
         {"feed_forward.w1.", "ffn.up_proj."},
         {"feed_forward.w2.", "ffn.down_proj."}}}},
      {TransformerNames::kTorchEncoder, {"layers.", {{"norm.", "norm.", kNorm}}, torch_layer("norm2.")}},
      {TransformerNames::kTorchDecoder, {"layers.", {{"norm.", "norm.", kNorm}}, torch_layer("norm3.")}}};
  return kNamings.at(names);
}

PublishedPart renamed(const std::vector<Renaming>& renamings, const std::string& ours) {
  for (const Renaming& renaming : renamings) {
    if (!ours.starts_with(renaming.ours)) continue;
    PublishedPart part = renaming.part;
    const std::string kind = ours.substr(std::string(renaming.ours).size());
    part.name = renaming.published + kind;
    part.plus_one = part.plus_one && kind == "weight";
    return part;
  }
  fail("[hub] {} has no counterpart in the other names", ours);
}

/// The rows of part of a published parameter, as they lie there.
Tensor rows_there(const Tensor& published, const PublishedPart& part, const TransformerLayerConfig& layer) {
  if (part.of_fused == 0) return published;
  const int64_t D = layer.model_dim, E = layer.kv_heads() * layer.head_dim();
  const int64_t begin = part.of_fused == 'q' ? 0 : part.of_fused == 'k' ? D : D + E;
  return published.narrow(0, begin, part.of_fused == 'q' ? D : E);
}

}  // namespace

// ---- names ----------------------------------------------------------------------------------------------------------

PublishedPart published_part(TransformerNames names, const std::string& ours) {
  static const std::string kLayers = "layers.";
  const Naming& how = naming(names);
  if (ours.starts_with(kLayers)) {
    const size_t dot = ours.find('.', kLayers.size());
    const std::string index = ours.substr(kLayers.size(), dot - kLayers.size());
    PublishedPart part = renamed(how.inside, ours.substr(dot + 1));
    part.name = fmt::format("{}{}.{}", how.layers, index, part.name);
    return part;
  }
  const auto is_of = [&](const Renaming& renaming) { return ours.starts_with(renaming.ours); };
  const bool outside = std::any_of(how.outside.begin(), how.outside.end(), is_of);
  return renamed(outside ? how.outside : how.inside, ours);
}

Tensor our_rows(const Tensor& published, const PublishedPart& part, const TransformerLayerConfig& layer) {
  const Tensor rows = rows_there(published, part, layer);
  if (!part.half_rotated) return rows;
  return rows.unflatten(0, {-1, 2, layer.head_dim() / 2}).transpose(1, 2).flatten(0, 2);
}

void write_our_rows(const Tensor& ours, const PublishedPart& part, const TransformerLayerConfig& layer,
                    const Tensor& published) {
  Tensor rows = rows_there(published, part, layer);
  rows.copy_(part.half_rotated ? ours.unflatten(0, {-1, layer.head_dim() / 2, 2}).transpose(1, 2).flatten(0, 2) : ours);
}

// ---- configurations -------------------------------------------------------------------------------------------------

namespace {

/// A value of that type, and no number that would have to be rounded.
template <class T>
T value_of(const Json& value, const char* key) {
  if constexpr (std::is_same_v<T, int64_t>)
    check(value.is_number_integer() && (!value.is_number_unsigned() || value.get<uint64_t>() <= INT64_MAX),
          "{}: expected a whole number, found {}", key, value.dump());
  if constexpr (std::is_same_v<T, double>)
    check(value.is_number(), "{}: expected a number, found {}", key, value.dump());
  if constexpr (std::is_same_v<T, bool>)
    check(value.is_boolean(), "{}: expected true or false, found {}", key, value.dump());
  if constexpr (std::is_same_v<T, std::string>)
    check(value.is_string(), "{}: expected a text, found {}", key, value.dump());
  return value.get<T>();
}

template <class T>
T required(const Json& tree, const char* key) {
  check(tree.contains(key), "{}: expected, but not there", key);
  return value_of<T>(tree.at(key), key);
}

/// The value of a key that may be absent or null.
template <class T>
T value_or(const Json& tree, const char* key, T otherwise) {
  return tree.contains(key) && !tree.at(key).is_null() ? value_of<T>(tree.at(key), key) : otherwise;
}

/// An object that may be absent or null.
Json object_or_empty(const Json& tree, const char* key) {
  const Json object = value_or(tree, key, Json::object());
  check(object.is_object(), "{}: expected an object, found {}", key, object.dump());
  return object;
}

/// Refuses what would change the function and has no counterpart here.
void expect_none(const Json& tree, std::initializer_list<const char*> keys, const std::string& source) {
  for (const char* key : keys)
    check(value_or(tree, key, Json()).is_null(), "[{}] {} = {} is not supported", source, key,
          value_or(tree, key, Json()).dump());
}

/// Refuses a switch that is not as we have it.
template <class T>
void expect(const Json& tree, const char* key, T expected, const std::string& source) {
  const T found = value_or(tree, key, expected);
  check(found == expected, "[{}] {} = {} is not supported, only {}", source, key, Json(found).dump(),
        Json(expected).dump());
}

void read_rope_scaling(const Json& tree, TransformerConfig& config, const std::string& source) {
  const char* key = tree.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";  // the newer, the older
  const Json scaling = object_or_empty(tree, key);
  config.layer.rope_base = value_or(scaling, "rope_theta", config.layer.rope_base);
  if (scaling.empty()) return;
  expect_none(scaling, {"attention_factor", "mscale", "mscale_all_dim", "truncate", "partial_rotary_factor"}, source);
  const bool is_newer = scaling.contains("rope_type");  // older configurations fix yarn's base at 10,000
  const auto type = required<std::string>(scaling, is_newer ? "rope_type" : "type");
  if (type == "default") return;
  static const std::map<std::string, std::string> kKinds = {
      {"linear", "linear"}, {"dynamic", "dynamic_ntk"}, {"yarn", "yarn"}};
  const auto kind = kKinds.find(type);
  check(kind != kKinds.end(), "[{}] rope_scaling {} is not supported, only linear, dynamic and yarn", source, type);
  nn::RopeScaling& rope = config.layer.rope;
  rope.kind = kind->second;
  rope.factor = required<double>(scaling, "factor");
  rope.original_length = value_or(scaling, "original_max_position_embeddings", config.max_positions);
  rope.beta_fast = value_or(scaling, "beta_fast", rope.beta_fast);
  rope.beta_slow = value_or(scaling, "beta_slow", rope.beta_slow);
  if (type == "yarn" && !is_newer)
    check(config.layer.rope_base == 10000, "[{}] rope_theta {} beside a yarn of type is not supported, only 10000",
          source, config.layer.rope_base);
}

TransformerConfig llama_from_hub(const Json& tree, const std::string& source) {
  expect<std::string>(tree, "hidden_act", "silu", source);
  expect(tree, "attention_bias", false, source);
  expect(tree, "mlp_bias", false, source);
  TransformerConfig config;
  config.vocab_size = required<int64_t>(tree, "vocab_size");
  config.num_layers = required<int64_t>(tree, "num_hidden_layers");
  config.max_positions = value_or<int64_t>(tree, "max_position_embeddings", 2048);
  config.share_emb = value_or(tree, "tie_word_embeddings", false);
  TransformerLayerConfig& layer = config.layer;
  layer.model_dim = required<int64_t>(tree, "hidden_size");
  layer.num_heads = required<int64_t>(tree, "num_attention_heads");
  layer.num_kv_heads = value_or(tree, "num_key_value_heads", layer.num_heads);
  layer.ffn_hidden_dim = required<int64_t>(tree, "intermediate_size");
  layer.norm_eps = value_or(tree, "rms_norm_eps", 1e-6);
  layer.rope_base = value_or(tree, "rope_theta", 10000.0);
  read_rope_scaling(tree, config, source);
  return config;
}

double read_logit_scale(const Json& tree, int64_t model_dim, const std::string& source) {
  const Json scale = value_or(tree, "logit_scale", Json(1.0));
  if (scale.is_number()) return scale.get<double>();
  check(scale == "inv_sqrt_d_model", "[{}] logit_scale {} is not supported", source, scale.dump());
  return 1 / std::sqrt(static_cast<double>(model_dim));
}

int64_t read_kv_heads(const Json& attention, int64_t heads, const std::string& source) {
  const auto type = value_or<std::string>(attention, "attn_type", "grouped_query_attention");
  if (type == "multihead_attention") return heads;
  if (type == "multiquery_attention") return 1;
  check(type == "grouped_query_attention", "[{}] attn_type {} is not supported", source, type);
  return value_or(attention, "kv_n_heads", heads);
}

TransformerConfig mpt_from_hub(const Json& tree, const std::string& source) {
  const Json attention = object_or_empty(tree, "attn_config"), ffn = object_or_empty(tree, "ffn_config");
  expect(attention, "prefix_lm", false, source);
  expect(attention, "attn_uses_sequence_id", false, source);
  expect(attention, "rope", false, source);
  expect<int64_t>(attention, "sliding_window_size", -1, source);
  expect<std::string>(ffn, "ffn_type", "mptmlp", source);
  expect_none(ffn, {"ffn_act_fn", "ffn_hidden_size"}, source);
  TransformerConfig config;
  config.vocab_size = required<int64_t>(tree, "vocab_size");
  config.num_layers = required<int64_t>(tree, "n_layers");
  config.max_positions = value_or<int64_t>(tree, "max_seq_len", 2048);
  config.share_emb = value_or(tree, "tie_word_embeddings", true);
  TransformerLayerConfig& layer = config.layer;
  layer.model_dim = required<int64_t>(tree, "d_model");
  layer.num_heads = required<int64_t>(tree, "n_heads");
  layer.num_kv_heads = read_kv_heads(attention, layer.num_heads, source);
  const auto ratio = value_or<int64_t>(tree, "expansion_ratio", 4);
  check(ratio >= 1 && ratio <= 1024 && layer.model_dim >= 1 && layer.model_dim <= int64_t{1} << 31,
        "[{}] expansion_ratio {} and d_model {} are out of range", source, ratio, layer.model_dim);
  layer.ffn_hidden_dim = ratio * layer.model_dim;
  const auto norm = value_or<std::string>(tree, "norm_type", "low_precision_layernorm");
  check(norm.ends_with("layernorm") || norm.ends_with("rmsnorm"), "[{}] norm_type {} is not supported", source, norm);
  layer.norm = norm.ends_with("rmsnorm") ? "rms" : "layer";
  layer.norm_eps = value_or(tree, "norm_eps", value_or(tree, "layer_norm_epsilon", 1e-5));
  layer.activation = "gelu";
  layer.bias = !value_or(tree, "no_bias", false);
  const bool alibi = value_or(attention, "alibi", false);
  layer.position = alibi ? "alibi" : value_or(tree, "learned_pos_emb", true) ? "learned" : "none";
  layer.alibi_max = value_or(attention, "alibi_bias_max", 8.0);
  layer.qk_norm = value_or(attention, "qk_ln", false);
  layer.clip_qkv = value_or(attention, "clip_qkv", 0.0);
  layer.softmax_scale = value_or(attention, "softmax_scale", 0.0);
  config.logit_scale = read_logit_scale(tree, layer.model_dim, source);
  return config;
}

}  // namespace

TransformerConfig config_from_hub(const Json& tree, const std::string& source) {
  const bool llama = names_of_hub(tree, source) == TransformerNames::kHubLlama;
  TransformerConfig config;
  try {
    config = llama ? llama_from_hub(tree, source) : mpt_from_hub(tree, source);
  } catch (const Error& error) {
    const std::string text = error.what();
    if (text.starts_with('[')) throw;
    fail("[{}] {}", source, text);
  }
  config.validate();
  return config;
}

TransformerNames names_of_hub(const Json& tree, const std::string& source) {
  const Json found = value_or(tree, "model_type", Json(""));
  const std::string type = found.is_string() ? found.get<std::string>() : found.dump();
  check(type == "llama" || type == "mpt", "[{}] model_type \"{}\" is not supported, only llama and mpt", source, type);
  return type == "llama" ? TransformerNames::kHubLlama : TransformerNames::kHubMpt;
}

// ---- folders --------------------------------------------------------------------------------------------------------

namespace {

/// Buffers that older files hold and nobody needs, and an output matrix that is the embedding.
bool is_ignored(const std::string& name, const TransformerConfig& config) {
  return name.ends_with("rotary_emb.inv_freq") || (config.share_emb && name == "lm_head.weight");
}

/// Refuses a configuration of another size than the file before a model of that size is made.
void check_size(const TransformerConfig& config, TransformerNames names, const io::TensorFile& file) {
  check(config.num_layers <= std::ssize(file.tensors()), "[convert] expected {} layers, found {} tensors",
        config.num_layers, file.tensors().size());
  const io::TensorView* embedding = file.find(published_part(names, "embed.weight").name);
  const std::vector<int64_t> expected = {config.vocab_size, config.layer.model_dim};
  check(embedding != nullptr && embedding->shape == expected, "[convert] the embedding: expected {}, found {}",
        io::shape_text(expected), embedding == nullptr ? "none" : io::shape_text(embedding->shape));
  const io::TensorView* output = file.find("lm_head.weight");
  check(!config.share_emb || output == nullptr || torch::equal(to_tensor(*output), to_tensor(*embedding)),
        "[convert] tie_word_embeddings says that lm_head.weight is the embedding, but they differ");
}

/// Our parameters, from a file in which every tensor has its place.
NamedTensors read_weights(const Model& model, const TransformerConfig& config, TransformerNames names,
                          const io::TensorFile& file) {
  NamedTensors weights;
  std::set<std::string> used;
  for (const auto& [name, parameter] : named_weights(model)) {
    const PublishedPart part = published_part(names, name);
    const io::TensorView* view = file.find(part.name);
    check(view != nullptr, "[convert] {} is missing, which {} comes from", part.name, name);
    used.insert(part.name);
    const Tensor rows = our_rows(to_tensor(*view), part, config.layer);
    check(rows.sizes() == parameter.sizes(), "[convert] {}: expected {} to be {}, got {}", part.name, name,
          io::shape_text(parameter.sizes()), io::shape_text(rows.sizes()));
    weights.emplace_back(name, part.plus_one ? rows.to(torch::kFloat32) - 1 : rows.contiguous());
  }
  for (const io::TensorView& view : file.tensors())
    check(used.contains(view.name) || is_ignored(view.name, config), "[convert] {} has no place in the model",
          view.name);
  return weights;
}

Json read_config(const fs::path& folder) {
  const fs::path path = folder / "config.json";
  Json tree = parse_json<Json>(read_file(path), path.string());
  check(tree.is_object(), "[{}] expected a JSON object", path.string());
  return tree;
}

}  // namespace

bool is_hub(const fs::path& folder) {
  if (!fs::exists(folder / "config.json") || !io::has_tensors(folder, "model")) return false;
  const Json tree = read_config(folder);
  const Json type = value_or(tree, "model_type", Json());
  return !tree.contains("format") && (type == "llama" || type == "mpt");
}

void import_hub(const fs::path& source, const fs::path& target, Json tokenizer, const std::vector<TextPart>& files) {
  const std::string path = (source / "config.json").string();
  const Json tree = read_config(source);
  const TransformerConfig config = config_from_hub(tree, path);
  const int64_t tokens = tokenizer.value("vocabulary", int64_t{0});
  check(tokens <= config.vocab_size, "[convert] the tokenizer has {} tokens, but the model in {} reads {}", tokens,
        source.string(), config.vocab_size);
  const TransformerNames names = names_of_hub(tree, path);
  const io::TensorFile file = io::read_tensors(source, "model");
  check_size(config, names, file);
  const auto model = config.build();
  FolderParts parts = model_parts(config, read_weights(*model, config, names, file), tokenizer);
  parts.texts.insert(parts.texts.end(), files.begin(), files.end());
  write_folder_atomically(target, [&](const fs::path& folder) { write_parts(parts, folder); });
}

}  // namespace megalodon
