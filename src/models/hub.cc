#include "models/hub.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <regex>

#include "base/check.h"
#include "base/config_walk.h"
#include "io/bytes.h"
#include "models/config_checks.h"

namespace megalodon {

using Json = nlohmann::ordered_json;

// ---- configurations -------------------------------------------------------------------------------------------------

namespace {

/// A switch that we have in one position only.
struct FixedSwitch {
  const char* key;  // a JSON pointer
  Json position;
  bool written = true;  // older code does not know those that are not
};

using FixedSwitches = std::vector<FixedSwitch>;

const FixedSwitches& fixed_switches(PublishedNames names) {
  static const FixedSwitches kLlama = {{"/hidden_act", "silu"}, {"/attention_bias", false}, {"/mlp_bias", false}};
  static const FixedSwitches kMpt = {{"/attn_config/prefix_lm", false},
                                     {"/attn_config/attn_uses_sequence_id", false},
                                     {"/attn_config/rope", false, false},
                                     {"/attn_config/sliding_window_size", -1, false},
                                     {"/ffn_config/ffn_type", "mptmlp", false},
                                     {"/ffn_config/ffn_act_fn", Json{{"name", "gelu"}, {"approximate", "none"}}, false},
                                     {"/ffn_config/ffn_hidden_size", nullptr, false}};
  return names == PublishedNames::kHubLlama ? kLlama : kMpt;
}

/// Of rope_scaling.
const FixedSwitches& rope_switches() {
  static const FixedSwitches kRope = {{"/attention_factor", nullptr},
                                      {"/mscale", nullptr},
                                      {"/mscale_all_dim", nullptr},
                                      {"/truncate", true},
                                      {"/partial_rotary_factor", 1}};
  return kRope;
}

/// What is under the key; null where there is nothing.
Json value_at(const Json& tree, const char* pointer) {
  const Json::json_pointer at(pointer);
  return tree.contains(at) ? tree.at(at) : Json();
}

void check_fixed_switches(const Json& tree, const FixedSwitches& switches, const std::string& source) {
  const auto is_same = [](const nlohmann::json& a, const nlohmann::json& b) { return a == b; };  // in any order of keys
  for (const FixedSwitch& fixed : switches) {
    const Json found = value_at(tree, fixed.key);
    check(found.is_null() || is_same(found, fixed.position), "[{}] {} = {} is not supported, only {}", source,
          std::string_view(fixed.key).substr(1), found.dump(), fixed.position.dump());
  }
}

/// A Llama's config.json: names of fields, once for reading and writing.
struct LlamaFields {
  TransformerConfig config;
  std::string rope_type = "default";

  LlamaFields() { config.layer.norm_eps = 1e-6; }
  void visit(config::Visitor& v) {
    v.field("vocab_size", config.vocab_size, "");
    v.field("hidden_size", config.layer.model_dim, "");
    v.field("intermediate_size", config.layer.ffn_hidden_dim, "");
    v.field("num_hidden_layers", config.num_layers, "");
    v.field("num_attention_heads", config.layer.num_heads, "");
    v.field("num_key_value_heads", config.layer.num_kv_heads, "");
    v.field("max_position_embeddings", config.max_positions, "");
    v.field("rms_norm_eps", config.layer.norm_eps, "");
    v.field("rope_theta", config.layer.rope_base, "");
    v.field("attention_dropout", config.layer.attention_dropout, "");
    v.field("tie_word_embeddings", config.share_emb, "");
  }
  /// Those of rope_scaling, of which only some kinds have all.
  void visit_rope(config::Visitor& v) {
    nn::RopeScaling& rope = config.layer.rope;
    v.field("rope_type", rope_type, "");
    v.field("rope_theta", config.layer.rope_base, "");
    v.field("factor", rope.factor, "");
    v.field("original_max_position_embeddings", rope.original_length, "");
    v.field("beta_fast", rope.beta_fast, "");
    v.field("beta_slow", rope.beta_slow, "");
  }
  Json write_rope() {
    return config::write(config::Visit([this](config::Visitor& v) { visit_rope(v); }));
  }
};

/// The same of an MPT's config.json.
struct MptFields {
  TransformerConfig config;
  int64_t expansion_ratio = 4;
  std::string norm_type = "low_precision_layernorm", attention_type = "grouped_query_attention";
  bool no_bias = false, learned_positions = true, alibi = false;

  MptFields() { config.share_emb = true, config.layer.activation = "gelu"; }
  void visit(config::Visitor& v) {
    v.field("vocab_size", config.vocab_size, "");
    v.field("d_model", config.layer.model_dim, "");
    v.field("n_heads", config.layer.num_heads, "");
    v.field("n_layers", config.num_layers, "");
    v.field("expansion_ratio", expansion_ratio, "");
    v.field("max_seq_len", config.max_positions, "");
    v.field("learned_pos_emb", learned_positions, "");
    v.field("no_bias", no_bias, "");
    v.field("norm_type", norm_type, "");
    v.field("layer_norm_epsilon", config.layer.norm_eps, "");  // transformers' name of it
    v.field("norm_eps", config.layer.norm_eps, "");            // and the original's
    v.begin_section("attn_config", "");
    v.field("attn_type", attention_type, "");
    v.field("kv_n_heads", config.layer.num_kv_heads, "");
    v.field("attn_pdrop", config.layer.attention_dropout, "");
    v.field("alibi", alibi, "");
    v.field("alibi_bias_max", config.layer.alibi_max, "");
    v.field("qk_ln", config.layer.qk_norm, "");
    v.field("clip_qkv", config.layer.clip_qkv, "");
    v.field("softmax_scale", config.layer.softmax_scale, "");
    v.end_section();
    v.field("tie_word_embeddings", config.share_emb, "");
  }
};

void require_keys(const Json& tree, std::initializer_list<const char*> keys, const std::string& source) {
  for (const char* key : keys)
    check(!tree.value(key, Json()).is_null(), "[{}] {}: expected, but not there", source, key);
}

/// Names of kinds, there and ours.
const std::map<std::string, std::string>& rope_kinds() {
  static const std::map<std::string, std::string> kKinds = {
      {"default", "none"}, {"linear", "linear"}, {"dynamic", "dynamic_ntk"}, {"yarn", "yarn"}};
  return kKinds;
}

void read_rope_scaling(Json scaling, LlamaFields& fields, const std::string& source) {
  check(scaling.is_object(), "[{}] expected an object, found {}", source, scaling.dump());
  check_fixed_switches(scaling, rope_switches(), source);
  const bool is_older = !scaling.contains("rope_type");
  if (is_older && scaling.contains("type")) scaling["rope_type"] = scaling["type"];
  require_keys(scaling, {"rope_type"}, source);
  TransformerLayerConfig& layer = fields.config.layer;
  layer.rope.original_length = fields.config.max_positions;
  read_known_fields([&](config::Visitor& v) { fields.visit_rope(v); }, scaling, source);
  const auto kind = rope_kinds().find(fields.rope_type);
  check(kind != rope_kinds().end(), "[{}] rope_type {} is not supported, only linear, dynamic and yarn", source,
        fields.rope_type);
  layer.rope.kind = kind->second;
  if (layer.rope.kind == "none")
    layer.rope = {};
  else
    require_keys(scaling, {"factor"}, source);
  if (layer.rope.kind == "yarn" && is_older)  // whose code has 10,000 in it
    check(layer.rope_base == 10000, "[{}] rope_theta {} beside a yarn of type is not supported, only 10000", source,
          layer.rope_base);
}

/// Under the newer name, the older, or both if they say the same. Either may be there and say nothing.
void read_rope(const Json& tree, LlamaFields& fields, const std::string& source) {
  const Json newer = tree.value("rope_parameters", Json()), older = tree.value("rope_scaling", Json());
  LlamaFields as_older = fields;
  if (!newer.empty()) read_rope_scaling(newer, fields, source + ": rope_parameters");
  if (older.empty()) return;
  as_older.config.layer.rope_base = fields.config.layer.rope_base;  // which it need not repeat
  read_rope_scaling(older, as_older, source + ": rope_scaling");
  check(newer.empty() || as_older.write_rope() == fields.write_rope(),
        "[{}] rope_parameters and rope_scaling: expected the same of both, found {} and {}", source, newer.dump(),
        older.dump());
  fields = as_older;
}

/// Null for the kinds that are not there.
Json write_rope_scaling(LlamaFields fields) {
  const nn::RopeScaling& rope = fields.config.layer.rope;
  if (rope.kind == "linear") return {{"rope_type", "linear"}, {"factor", rope.factor}};
  if (rope.kind == "dynamic_ntk") return {{"rope_type", "dynamic"}, {"factor", rope.factor}};
  if (rope.kind != "yarn") return nullptr;
  fields.rope_type = "yarn";
  Json scaling = fields.write_rope();
  scaling.erase("rope_theta");
  return scaling;
}

/// Names of the visited fields by where these are in memory, which is the same for ours and theirs.
class NamesOfFields final : public config::Walk {
 public:
  explicit NamesOfFields(const config::Visit& visit) { visit(*this); }
  const std::map<const void*, std::string>& names() const { return names_; }

  void field(const char* name, bool& value, const char*) override { add(name, &value); }
  void field(const char* name, int64_t& value, const char*) override { add(name, &value); }
  void field(const char* name, double& value, const char*) override { add(name, &value); }
  void field(const char* name, std::string& value, const char*) override { add(name, &value); }
  void field(const char* name, std::vector<std::string>& value, const char*) override { add(name, &value); }
  void begin_section(const char* name, const char*) override { enter(name); }
  void end_section() override { leave(); }

 private:
  /// Of two names the first one.
  void add(const char* name, const void* field) { names_.emplace(field, dotted(name)); }

  std::map<const void*, std::string> names_;
};

/// Checks the configuration whose fields `visit` gives their names: "[model.num_heads] expected …" becomes
/// "[config.json] n_heads: expected …".
void validate(TransformerConfig& config, const config::Visit& visit, const std::string& source) {
  try {
    config.validate();
  } catch (const UsageError& error) {
    std::string message = std::regex_replace(error.what(), std::regex(R"(^\[model\.(\w+)\])"), "$1:");
    const NamesOfFields ours(config::Visit([&](config::Visitor& v) { config.visit(v); }));
    const NamesOfFields theirs(visit);
    for (const auto& [field, name] : ours.names())
      if (const auto there = theirs.names().find(field); there != theirs.names().end())
        message = std::regex_replace(message, std::regex(fmt::format(R"(\b{}\b)", name)), there->second);
    fail("[{}] {}", source, message);
  }
}

TransformerConfig llama_from_hub(const Json& tree, const std::string& source) {
  require_keys(tree, {"vocab_size", "num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"},
               source);
  LlamaFields fields;
  read_known_fields([&](config::Visitor& v) { fields.visit(v); }, tree, source);
  read_rope(tree, fields, source);
  const auto names = [&](config::Visitor& v) {
    fields.visit(v);
    v.begin_section("rope_scaling", "");
    fields.visit_rope(v);
    v.end_section();
  };
  validate(fields.config, names, source);
  return fields.config;
}

Json llama_to_hub(const TransformerConfig& config) {
  LlamaFields fields;
  fields.config = config;
  const nn::RopeScaling& rope = config.layer.rope;
  // transformers takes the original length of dynamic scalings from here, and some versions yarn's factor too: from its
  // ratio to the original length. Nothing else depends on it.
  const double stretched = rope.factor * static_cast<double>(rope.original_length);
  if (rope.kind == "dynamic_ntk") fields.config.max_positions = rope.original_length;
  if (rope.kind == "yarn" && stretched < 1e9) fields.config.max_positions = std::llround(stretched);
  Json tree = {{"architectures", {"LlamaForCausalLM"}}, {"model_type", "llama"}};
  tree.update(config::write(fields));
  tree["rope_scaling"] = write_rope_scaling(fields);
  return tree;
}

double read_logit_scale(const Json& scale, int64_t model_dim, const std::string& source) {
  if (scale.is_null()) return 1;
  if (scale.is_number()) return scale.get<double>();
  check(scale == "inv_sqrt_d_model", "[{}] logit_scale {} is not supported", source, scale.dump());
  return 1 / std::sqrt(static_cast<double>(model_dim));
}

TransformerConfig mpt_from_hub(const Json& tree, const std::string& source) {
  require_keys(tree, {"vocab_size", "n_layers", "d_model", "n_heads"}, source);
  MptFields fields;
  read_known_fields([&](config::Visitor& v) { fields.visit(v); }, tree, source);
  TransformerConfig& config = fields.config;
  TransformerLayerConfig& layer = config.layer;
  const std::string& attention = fields.attention_type;
  if (attention == "multihead_attention") layer.num_kv_heads = layer.num_heads;
  if (attention == "multiquery_attention") layer.num_kv_heads = 1;
  check(attention == "multihead_attention" || attention == "multiquery_attention" ||
            attention == "grouped_query_attention",
        "[{}] attn_type {} is not supported", source, attention);
  check(layer.model_dim >= 1 && layer.model_dim <= kLargestSize && fields.expansion_ratio >= 1 &&
            fields.expansion_ratio <= kLargestSize / layer.model_dim,
        "[{}] expansion_ratio {} and d_model {}: expected at least 1, and at most {} of their product", source,
        fields.expansion_ratio, layer.model_dim, kLargestSize);
  layer.ffn_hidden_dim = fields.expansion_ratio * layer.model_dim;
  const std::string& norm = fields.norm_type;
  check(norm.ends_with("layernorm") || norm.ends_with("rmsnorm"), "[{}] norm_type {} is not supported", source, norm);
  layer.norm = norm.ends_with("rmsnorm") ? "rms" : "layer";
  layer.bias = !fields.no_bias;
  layer.position = fields.alibi ? "alibi" : fields.learned_positions ? "learned" : "none";
  config.logit_scale = read_logit_scale(tree.value("logit_scale", Json()), layer.model_dim, source);
  const auto names = [&](config::Visitor& v) { fields.visit(v); };
  validate(config, names, source);
  return config;
}

Json mpt_to_hub(const TransformerConfig& config) {
  MptFields fields;
  fields.config = config;
  const TransformerLayerConfig& layer = config.layer;
  const bool is_multi_head = layer.kv_heads() == layer.num_heads;
  fields.config.layer.num_kv_heads = layer.kv_heads();
  fields.attention_type = is_multi_head           ? "multihead_attention"
                          : layer.kv_heads() == 1 ? "multiquery_attention"
                                                  : "grouped_query_attention";
  fields.expansion_ratio = std::max<int64_t>(layer.ffn_hidden_dim / layer.model_dim, 1);
  fields.norm_type = layer.norm == "rms" ? "rmsnorm" : "layernorm";
  fields.no_bias = !layer.bias;
  fields.alibi = layer.position == "alibi", fields.learned_positions = layer.position == "learned";
  // What transformers' own class can run, which takes slopes to 2^-8 and no bounds whatever the file says; more of it
  // can the original's, which its folders come with.
  const bool is_own = fields.alibi && layer.alibi_max == 8 && layer.clip_qkv == 0 && fields.no_bias && is_multi_head &&
                      layer.norm == "layer" && !layer.qk_norm && fields.expansion_ratio == 4 && config.logit_scale == 1;
  Json tree = {{"architectures", {is_own ? "MptForCausalLM" : "MPTForCausalLM"}}, {"model_type", "mpt"}};
  tree.update(config::write(fields));
  Json& attention = tree["attn_config"];
  attention["attn_impl"] = "torch";
  if (fields.attention_type != "grouped_query_attention") attention.erase("kv_n_heads");
  if (layer.clip_qkv == 0) attention["clip_qkv"] = nullptr;
  if (layer.softmax_scale == 0) attention["softmax_scale"] = nullptr;
  tree["logit_scale"] = config.logit_scale == 1 ? Json() : Json(config.logit_scale);
  return tree;
}

/// The same function, with every field that it does not depend on at its default.
TransformerConfig essential(TransformerConfig config) {
  const TransformerConfig plain;
  TransformerLayerConfig& layer = config.layer;
  layer.num_kv_heads = layer.kv_heads();
  if (layer.position != "rotary") layer.rope_base = plain.layer.rope_base, layer.rope.kind = plain.layer.rope.kind;
  if (layer.rope.kind == "none" || layer.rope.kind == "linear") layer.rope.original_length = 0;
  if (layer.rope.kind == "none") layer.rope.factor = plain.layer.rope.factor;
  if (layer.rope.kind != "yarn") layer.rope.beta_fast = layer.rope.beta_slow = 0;
  if (layer.position != "alibi") layer.alibi_max = plain.layer.alibi_max;
  if (layer.position != "learned") config.max_positions = plain.max_positions;
  if (config.output_size == config.vocab_size) config.output_size = -1;
  layer.dropout = layer.hidden_dropout = 0, layer.init_mode = plain.layer.init_mode;
  return config;
}

Json fields_of(TransformerConfig config) {
  return config::write(config);
}

}  // namespace

PublishedNames names_of_hub(const Json& tree, const std::string& source) {
  const Json found = tree.value("model_type", Json(""));
  const std::string type = found.is_string() ? found.get<std::string>() : found.dump();
  check(type == "llama" || type == "mpt", "[{}] model_type \"{}\" is not supported, only llama and mpt", source, type);
  return type == "llama" ? PublishedNames::kHubLlama : PublishedNames::kHubMpt;
}

TransformerConfig config_from_hub(const Json& tree, const std::string& source) {
  const PublishedNames names = names_of_hub(tree, source);
  check_fixed_switches(tree, fixed_switches(names), source);
  return names == PublishedNames::kHubLlama ? llama_from_hub(tree, source) : mpt_from_hub(tree, source);
}

Json config_to_hub(const TransformerConfig& config) {
  const bool is_llama = config.layer.position == "rotary";
  Json tree = is_llama ? llama_to_hub(config) : mpt_to_hub(config);
  for (const FixedSwitch& fixed : fixed_switches(names_of_hub(tree, "convert")))
    if (fixed.written) tree[Json::json_pointer(fixed.key)] = fixed.position;
  // Whatever could not be said reads back as something else.
  const Json wanted = fields_of(essential(config)), said = fields_of(essential(config_from_hub(tree, "convert")));
  std::vector<std::string> problems;
  for (const auto& [key, value] : wanted.items())
    if (said[key] != value)
      problems.push_back(fmt::format("{} = {} (it would be read as {})", key, value.dump(), said[key].dump()));
  check(problems.empty(), "[convert] a config.json of Hugging Face's {} cannot say\n  {}", is_llama ? "Llama" : "MPT",
        fmt::join(problems, "\n  "));
  return tree;
}

// ---- folders --------------------------------------------------------------------------------------------------------

namespace {

/// Which have between them every size that the configuration says.
NamedShapes telling_shapes(const TransformerConfig& config) {
  const int64_t D = config.layer.model_dim;
  NamedShapes shapes = {{"embed.weight", {config.vocab_size, D}},
                        {"layers.0.feed_forward.w1.weight", {config.layer.ffn_hidden_dim, D}}};
  if (config.layer.position == "learned") shapes.push_back({"positions.weight", {config.max_positions, D}});
  return shapes;
}

/// What the description of a tokenizer says of config.json, where transformers takes 1 and 2 for a Llama's BOS and EOS
/// unless told otherwise.
Json special_tokens(const Json& tree, PublishedNames names) {
  Json all = names == PublishedNames::kHubLlama ? Json{{"bos_token_id", 1}, {"eos_token_id", 2}} : Json::object();
  all.update(tree);
  return unknown_tokenizer(all);
}

const char* torch_name(io::Dtype dtype) {
  switch (dtype) {
    case io::Dtype::BF16:
      return "bfloat16";
    case io::Dtype::F16:
      return "float16";
    case io::Dtype::F64:
      return "float64";
    default:
      return "float32";
  }
}

}  // namespace

bool is_hub(const fs::path& folder) {
  if (!fs::exists(folder / "config.json") || !io::has_tensors(folder, "model")) return false;
  const Json tree = read_json_object(folder / "config.json");
  const Json type = tree.value("model_type", Json());
  return !tree.contains("format") && (type == "llama" || type == "mpt");
}

ModelContents read_hub(const fs::path& folder) {
  const std::string path = (folder / "config.json").string();
  const Json tree = read_json_object(path);
  auto config = std::make_unique<TransformerConfig>(config_from_hub(tree, path));
  const PublishedNames names = names_of_hub(tree, path);
  const io::TensorFile file = io::read_tensors(folder, "model");
  const std::string embedding = published_part(names, "embed.weight").name;
  // Older files hold rotary frequencies, which nobody needs.
  const auto problem_of_surplus = [&](const io::TensorView& view) -> std::string {
    if (view.name.ends_with("rotary_emb.inv_freq")) return "";
    if (config->share_emb && view.name == "lm_head.weight") return problem_of_tied(view, file, embedding);
    return fmt::format("surplus {} {}", view.name, io::shape_text(view.shape));
  };
  io::TensorFile weights = io::with_context(fmt::format("[{}]", folder.string()), [&] {
    check_sizes(file, names, config->layer, config->num_layers, telling_shapes(*config));
    return our_tensors(*config->build(), names, config->layer, file, problem_of_surplus);
  });
  return {std::move(config), std::move(weights), {special_tokens(tree, names)}};
}

void write_hub(const ModelContents& contents, const fs::path& folder, uint64_t max_shard_bytes) {
  const auto& config = dynamic_cast<const TransformerConfig&>(*contents.config);
  Json tree = config_to_hub(config);
  tree["torch_dtype"] = torch_name(contents.weights.find("embed.weight")->dtype);
  for (const char* key : kSpecialTokens) tree[key] = contents.tokenizer.description.value(key, Json());
  const io::TensorFile file = their_tensors(contents.weights, names_of_hub(tree, "convert"), config.layer);
  io::write_tensors(folder, "model", file.tensors(), max_shard_bytes);
  write_file_atomically(folder / "config.json", tree.dump(2) + "\n");
  write_texts(contents.tokenizer.files, folder);
}

}  // namespace megalodon
