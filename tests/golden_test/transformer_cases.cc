// Transformers: rotary tables and ALiBi, layers, language models, encoder and decoder stacks, Hugging Face folders.
#include "transformer_cases.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "base/check.h"
#include "base/temporary_folder.h"
#include "cases.h"
#include "checkpoint_cases.h"
#include "models/convert.h"
#include "models/hub.h"
#include "ops/rotary/rotary.h"

namespace megalodon::golden {
namespace {

/// Of float64 tables: angles of 10⁵ radians are exact to 10⁻¹¹.
constexpr Tolerance kTable{1e-10};

// ---- published parameters -------------------------------------------------------------------------------------------

/// The parameters of a module under the names of a case.
class Published {
 public:
  Published(torch::nn::Module& module, PublishedNames names, const TransformerLayerConfig& layer)
      : module_(module), names_(names), layer_(layer) {}

  void load(const Pass& pass) const {
    const torch::NoGradGuard no_grad;
    module_.to(target().device, pass.dtype());
    for (const auto& item : module_.named_parameters()) {
      const PublishedPart part = published_part(names_, item.key());
      const Tensor rows = our_rows(pass.get("param." + part.name), part, layer_);
      Tensor(item.value()).copy_(part.plus_one ? rows - 1 : rows);
    }
  }

  /// Differentiates and compares the gradients of parameters and inputs.
  void finish(Pass& pass, const Tensor& loss = {}) const {
    pass.finish(loss);
    std::map<std::string, Tensor> gradients;
    for (const auto& item : module_.named_parameters()) {
      const PublishedPart part = published_part(names_, item.key());
      const std::string name = "grad." + part.name;
      if (!pass.source().has(name)) continue;
      Tensor& whole = gradients[name];
      if (!whole.defined()) whole = torch::full_like(pass.get(name), NAN);
      write_our_rows(item.value().grad(), part, layer_, whole);
    }
    for (const auto& [name, got] : gradients)
      pass.comparer().near(name, got, pass.source().tensor(name),
                           pass.source().widened(pass.source().gradient_tolerance(), name));
  }

 private:
  torch::nn::Module& module_;
  PublishedNames names_;
  TransformerLayerConfig layer_;
};

// ---- configurations -------------------------------------------------------------------------------------------------

TransformerConfig llama_config(const Json& tree) {
  TransformerConfig config;
  config.layer.model_dim = tree.at("dim").get<int64_t>();
  config.layer.num_heads = tree.at("n_heads").get<int64_t>();
  config.layer.num_kv_heads = tree.at("n_kv_heads").get<int64_t>();
  config.layer.ffn_hidden_dim = tree.at("ffn_hidden").get<int64_t>();
  config.layer.norm_eps = tree.at("norm_eps").get<double>();
  config.layer.rope_base = tree.at("rope_theta").get<double>();
  config.num_layers = tree.at("n_layers").get<int64_t>();
  config.vocab_size = tree.value("vocab", int64_t{1});
  return config;
}

/// Blocks say all in one place.
TransformerLayerConfig mpt_layer(Json tree) {
  const Json attention = tree;
  tree.update({{"attn_config", attention}, {"model_type", "mpt"}, {"vocab_size", 1}, {"n_layers", 1}});
  tree["learned_pos_emb"] = false;
  return config_from_hub(tree, "case").layer;
}

TransformerLayerConfig torch_layer(const Json& tree, bool is_decoder) {
  TransformerLayerConfig config;
  config.model_dim = tree.at("d_model").get<int64_t>();
  config.num_heads = tree.at("n_heads").get<int64_t>();
  config.ffn_hidden_dim = tree.at("ffn").get<int64_t>();
  config.norm = "layer", config.norm_eps = tree.at("norm_eps").get<double>();
  config.activation = tree.at("activation").get<std::string>();
  config.prenorm = tree.at("norm_first").get<bool>();
  config.bias = true, config.position = "none";
  config.causal = is_decoder || tree.at("causal").get<bool>();
  config.cross = is_decoder;
  return config;
}

// ---- language models ------------------------------------------------------------------------------------------------

Tensor in_pieces(Model& model, const Tensor& tokens_BL, const std::vector<int64_t>& pieces, StreamCarry& carry) {
  const torch::NoGradGuard no_grad;
  std::vector<Tensor> logits;
  int64_t done = 0;
  for (const int64_t steps : pieces) {
    logits.push_back(model.logits({tokens_BL.narrow(1, done, steps), {}}, carry));
    done += steps;
  }
  return torch::cat(logits, 1);
}

void compare_stream(Pass& pass, Model& model, const Tensor& tokens_BL) {
  const Json pieces = pass.source().config().value("incremental_pieces", Json());
  if (pieces.is_null()) return;
  StreamCarry carry;
  pass.output("logits_incremental", in_pieces(model, tokens_BL, pieces.get<std::vector<int64_t>>(), carry));
  for (size_t layer = 0; layer < carry.slots().size(); ++layer) {
    pass.output(fmt::format("cache_k{}", layer), carry.slots()[layer][0]);
    pass.output(fmt::format("cache_v{}", layer), carry.slots()[layer][1]);
  }
}

void compare_language_model(Pass& pass, const TransformerConfig& config, PublishedNames names) {
  const auto model = config.build();
  model->set_precision(target().precision);
  const Published published(*model, names, config.layer);
  published.load(pass);
  ModelInput input{pass.get("in.tokens"), {}};
  Tensor targets_BL = pass.get("in.targets");
  if (const Tensor mask_BL = pass.find("in.attention_mask"); mask_BL.defined()) {
    input.padding_BL = mask_BL == 0;
    targets_BL = targets_BL.masked_fill(input.padding_BL, -100);
  }
  NoCarry whole;
  {
    const torch::NoGradGuard no_grad;
    model->eval();
    pass.output("logits", model->logits(input, whole));
    compare_stream(pass, *model, input.tokens_BL);
  }
  if (config.layer.position == "alibi")
    pass.output("alibi_slopes", nn::alibi_slopes(config.layer.num_heads, config.layer.alibi_max));
  model->train();
  const Tensor loss = model->nll(input, targets_BL, whole).sum() / (targets_BL >= 0).sum();
  pass.output("loss", loss);
  published.finish(pass, loss);
}

void compare_block(Pass& pass, const TransformerLayerConfig& config, PublishedNames names) {
  TransformerLayer layer(config);
  layer.set_precision(target().precision);
  const Published published(layer, names, config);
  published.load(pass);
  NoCarry whole;
  pass.output("y", layer.forward(pass.leaf("in.x"), ModelInput(), whole, 0, 0));
  published.finish(pass);
}

}  // namespace

// ---- positions ------------------------------------------------------------------------------------------------------

void run_rotary_scaling(Pass& pass) {
  const Json& config = pass.source().config();
  nn::RopeScaling scaling;
  scaling.kind = config.at("kind").get<std::string>();
  scaling.factor = config.at(scaling.kind == "dynamic_ntk" ? "dynamic_ntk_factor" : "scale").get<double>();
  scaling.original_length = config.at("original_max_position_embeddings").get<int64_t>();
  scaling.beta_fast = config.at("beta_fast").get<double>(), scaling.beta_slow = config.at("beta_slow").get<double>();
  for (const char* factor : {"extrapolation_factor", "attn_factor"})
    check(config.at(factor).get<double>() == 1, "[golden] {} is 1 in every published model", factor);
  const auto K = config.at("head_dim").get<int64_t>();
  const auto rope =
      nn::rope_frequencies(K, config.at("base").get<double>(), scaling, config.at("current_length").get<int64_t>());
  const auto exactly = [&](const std::string& name, const Tensor& got) {
    if (pass.source().has("out." + name))
      pass.comparer().near("out." + name, got, pass.source().tensor("out." + name), kTable);
  };
  // The published linear kinds divide positions and leave the frequencies, the first of which is 1.
  const bool linear = scaling.kind.ends_with("linear");
  exactly("inv_freq", linear ? rope.frequency_K / rope.frequency_K[0] : rope.frequency_K);
  exactly("mscale", torch::full({1}, rope.magnitude, torch::kFloat64));
  // Rotated, (1, 0) is the cosine and the sine.
  const Tensor position_BL = pass.source().tensor("in.positions").unsqueeze(0);
  const Tensor one = torch::tensor({1.0, 0.0}, torch::kFloat64).repeat({K / 2});
  const Tensor turned = ops::rotary_with_frequencies(one.expand({1, position_BL.size(1), 1, K}).contiguous(),
                                                     position_BL, rope.frequency_K);
  const Tensor table = turned.view({-1, K / 2, 2}) * rope.magnitude;
  exactly("cos", table.select(2, 0));
  exactly("sin", table.select(2, 1));
}

void run_rotary_pairs(Pass& pass) {
  const Json& config = pass.source().config();
  const auto K = config.at("head_dim").get<int64_t>(), begin = config.at("start_pos").get<int64_t>();
  const auto rope = nn::rope_frequencies(K, config.at("theta").get<double>(), {});
  const auto rotated = [&](const Tensor& x_BLHK) {
    const Tensor position_L = torch::arange(begin, begin + x_BLHK.size(1), torch::kInt64).to(x_BLHK.device());
    return ops::rotary_with_frequencies(x_BLHK, position_L.expand({x_BLHK.size(0), -1}), rope.frequency_K);
  };
  const Tensor q_BLHK = pass.leaf("in.q");
  pass.output("q_rot", rotated(q_BLHK));
  pass.output("k_rot", rotated(pass.leaf("in.k")));
  const Tensor one = torch::tensor({1.0, 0.0}, q_BLHK.options()).repeat({1, q_BLHK.size(1), 1, K / 2});
  const Tensor table = rotated(one).view({-1, K / 2, 2});
  pass.output("cos", table.select(2, 0));
  pass.output("sin", table.select(2, 1));
  pass.finish();
}

void run_alibi(Pass& pass) {
  const Json& config = pass.source().config();
  const auto length = config.at("seq_len").get<int64_t>();
  for (const auto& view : pass.source().file().tensors()) {
    int64_t heads = 0, max = 0;
    const bool slopes = std::sscanf(view.name.c_str(), "out.slopes_h%ld_max%ld", &heads, &max) == 2;
    if (!slopes && std::sscanf(view.name.c_str(), "out.bias_h%ld_max%ld", &heads, &max) != 2) continue;
    const Tensor slope_H = nn::alibi_slopes(heads, static_cast<double>(max));
    const Tensor distance_J = torch::arange(1 - length, 1, slope_H.options());
    pass.comparer().near(view.name, slopes ? slope_H : slope_H.unsqueeze(1) * distance_J,
                         pass.source().tensor(view.name), kTable);
  }
}

// ---- layers and models ----------------------------------------------------------------------------------------------

void run_llama_block(Pass& pass) {
  compare_block(pass, llama_config(pass.source().config()).layer, PublishedNames::kLlama);
}

void run_mpt_block(Pass& pass) {
  const TransformerLayerConfig config = mpt_layer(pass.source().config());
  if (config.position == "alibi") {
    const Tensor slope_H = nn::alibi_slopes(config.num_heads, config.alibi_max);
    const auto length = pass.source().config().at("seq_len").get<int64_t>();
    const Tensor bias_HL = slope_H.unsqueeze(1) * torch::arange(1 - length, 1, slope_H.options());
    pass.output("attn_bias", bias_HL.view({1, config.num_heads, 1, length}));
  }
  compare_block(pass, config, PublishedNames::kHubMpt);
}

void run_llama_model(Pass& pass) {
  compare_language_model(pass, llama_config(pass.source().config()), PublishedNames::kLlama);
}

void run_hub_model(Pass& pass) {
  const Json& config = pass.source().config();
  compare_language_model(pass, config_from_hub(config, "case"), names_of_hub(config, "case"));
}

void run_torch_stack(Pass& pass) {
  const Json& config = pass.source().config();
  const bool is_decoder = pass.source().kind().starts_with("transformer_decoder");
  const bool is_layer = pass.source().kind().ends_with("_layer");
  const TransformerLayerConfig layer = torch_layer(config, is_decoder);
  const auto names = is_decoder ? PublishedNames::kTorchDecoder : PublishedNames::kTorchEncoder;
  const auto mask = [&](const char* name) {
    const Tensor given = pass.find(name);
    return given.defined() ? given.to(torch::kBool) : given;
  };
  const Memory memory = {pass.find_leaf("in.memory"), mask("in.memory_padding_mask")};
  const Tensor x_BLD = pass.leaf("in.x"), padding_BL = mask("in.padding_mask");
  const auto compare = [&](torch::nn::Module& module, const auto& forward) {
    const Published published(module, names, layer);
    published.load(pass);
    pass.output("y", forward());
    published.finish(pass);
  };
  NoCarry whole;
  if (is_layer) {
    TransformerLayer one(layer);
    return compare(one, [&] { return one.forward(x_BLD, {{}, {}, padding_BL}, memory, whole, 0, 0); });
  }
  TransformerStack stack(layer, config.at("layers").get<int64_t>(), config.at("final_norm").get<bool>());
  compare(stack, [&] { return stack.forward(x_BLD, padding_BL, memory, 0); });
}

// ---- folders --------------------------------------------------------------------------------------------------------

void check_hub_checkpoint(const fs::path& folder, Comparer& comparer) {
  const Case source(folder / "logits");
  TemporaryFolder temporary;
  const Conversion imported = convert(folder, temporary / "imported");
  comparer.require(imported.stored.has_value(), "conversion", "did not compare the logits beside the checkpoint");
  const LoadedModel loaded = load_model(temporary / "imported");
  loaded.model->to(target().device);
  loaded.model->set_precision(target().precision);
  Pass pass(source, comparer, torch::kFloat32);
  const Tensor tokens_BL = pass.get("in.tokens");
  {
    const torch::NoGradGuard no_grad;
    NoCarry whole;
    pass.output("logits", loaded.model->logits({tokens_BL, {}}, whole));
  }
  std::vector<int64_t> pieces = {source.config().at("incremental_prefill").get<int64_t>()};
  pieces.resize(static_cast<size_t>(tokens_BL.size(1) - pieces[0] + 1), 1);
  StreamCarry carry;
  pass.output("logits_incremental", in_pieces(*loaded.model, tokens_BL, pieces, carry));
  source.check_all_compared(comparer);

  convert(temporary / "imported", temporary / "exported");
  const std::string tensors =
      difference(io::read_tensors(folder, "model"), io::read_tensors(temporary / "exported", "model"));
  comparer.require(tensors.empty(), "exported tensors", "differ from the original: " + tensors);
  const auto config_of = [](const fs::path& path) {
    TransformerConfig config = config_from_hub(read_json(path / "config.json"), path.string());
    return config::write(config);
  };
  comparer.require(config_of(folder) == config_of(temporary / "exported"), "exported configuration",
                   "reads as another than the original");

  if (!source.json().contains("twin")) return;
  const fs::path stem = folder.parent_path() / source.json().at("twin").at("golden").get<std::string>();
  if (!fs::exists(fs::path(stem) += ".json"))
    return comparer.note("the twin " + stem.filename().string() + " is not here");
  const Case twin(stem);
  for (const auto& [name, weight] : named_weights(*loaded.model)) {
    const PublishedPart part = published_part(PublishedNames::kLlama, name);
    const Tensor expected = twin.tensor("param." + part.name);
    comparer.equal("param." + part.name + " of the twin", weight, part.plus_one ? expected - 1 : expected);
  }
}

}  // namespace megalodon::golden
