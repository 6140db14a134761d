// Folders of others. Those of the ports are written here from the description of their formats, by loops over elements
// where the product reshapes.
#include "models/convert.h"

#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

#include "base/hash.h"
#include "base/testing.h"
#include "models/hub.h"
#include "models/testing.h"

namespace megalodon {
namespace {

using testing::noisy_model;
using testing::one_pass;
using testing::random_tokens;
using testing::tiny_config;
using testing::tiny_transformer;
using Json = nlohmann::ordered_json;
using Tensors = std::map<std::string, Tensor>;

class Convert : public FolderTest {
 protected:
  fs::path at(const char* name) const { return folder_ / name; }

  void save(const Model& model, const char* name) const {
    fs::create_directories(at(name));
    save_model(model, {{"type", "none"}}, at(name));
  }

  /// Of the model in one of our folders.
  Tensor logits(const char* name) const {
    const torch::NoGradGuard no_grad;
    const auto model = load_model(at(name)).model;
    return one_pass(*model, {random_tokens(model->config(), 2, 29), {}});
  }

  void write(const char* name, const Tensors& tensors, const std::map<std::string, std::string>& metadata = {}) const {
    fs::create_directories(at(name));
    std::vector<io::TensorView> views;
    for (const auto& [key, tensor] : tensors) views.push_back(to_view(key, tensor));
    io::write_safetensors(at(name) / "model.safetensors", views, metadata);
  }

  /// That of converting `source`, which must leave no target.
  std::string refusal(const char* source, const ConvertOptions& options = {}) const {
    const std::string message = error_of([&] { convert(at(source), at("refused"), options); });
    EXPECT_FALSE(fs::exists(at("refused"))) << message;
    return message;
  }
};

/// Largest difference, of the largest magnitude.
double relative_difference(const Tensor& a, const Tensor& b) {
  return ((a - b).abs().max() / b.abs().max()).item<double>();
}

std::string bytes_of(const fs::path& folder, const std::string& file = "model.safetensors") {
  return read_file(folder / file);
}

Tensors tensors_of(const io::TensorFile& file) {
  Tensors tensors;
  for (const io::TensorView& view : file.tensors()) tensors[view.name] = to_tensor(view);
  return tensors;
}

// ---- Hugging Face's Llama and MPT -----------------------------------------------------------------------------------

/// Between them every field that a Hugging Face folder can say.
std::map<std::string, TransformerConfig> hub_models() {
  TransformerConfig llama = tiny_transformer("rotary");
  llama.layer.num_kv_heads = 2, llama.layer.norm_eps = 1e-6, llama.layer.rope_base = 5000;
  std::map<std::string, TransformerConfig> models = {{"llama", llama}};
  models["linear"] = llama, models["linear"].layer.rope = {.kind = "linear", .factor = 2};
  models["dynamic"] = llama;
  models["dynamic"].layer.rope = {.kind = "dynamic_ntk", .factor = 2, .original_length = 16};
  models["yarn"] = llama, models["yarn"].share_emb = true;
  models["yarn"].layer.rope = {.kind = "yarn", .factor = 4, .original_length = 16, .beta_fast = 24, .beta_slow = 2};
  TransformerConfig mpt = tiny_transformer("alibi");
  mpt.layer.norm = "layer", mpt.layer.activation = "gelu", mpt.layer.ffn_hidden_dim = 64, mpt.share_emb = true;
  mpt.layer.softmax_scale = 0.7;
  models["mpt"] = mpt;
  models["mpt-slopes"] = mpt, models["mpt-slopes"].layer.alibi_max = 4;
  models["mpt-clip"] = mpt, models["mpt-clip"].layer.clip_qkv = 2;
  models["mpt-kv1"] = mpt, models["mpt-kv1"].layer.num_kv_heads = 1, models["mpt-kv1"].layer.qk_norm = true;
  models["mpt-kv2"] = mpt, models["mpt-kv2"].layer.num_kv_heads = 2, models["mpt-kv2"].share_emb = false;
  models["mpt-kv2"].logit_scale = 0.5, models["mpt-kv2"].layer.norm = "rms";
  models["mpt-learned"] = mpt, models["mpt-learned"].layer.position = "learned";
  models["mpt-learned"].layer.bias = true, models["mpt-learned"].layer.ffn_hidden_dim = 48;
  models["mpt-none"] = mpt, models["mpt-none"].layer.position = "none";
  return models;
}

TEST_F(Convert, ModelsComeBackFromHuggingFaceAndFoldersAreTheSameAgain) {
  for (const auto& [name, config] : hub_models()) {
    SCOPED_TRACE(name);
    save(*noisy_model(config), "ours");
    const Conversion there = convert(at("ours"), at("hub"));
    EXPECT_STREQ(there.to->name, "hub");
    EXPECT_EQ(there.checked->same_top, there.checked->positions);
    const Conversion back = convert(at("hub"), at("back"));
    EXPECT_EQ(back.tensors, there.tensors);
    EXPECT_EQ(back.parameters, there.parameters);
    EXPECT_FALSE(back.stored);
    // Norms are stored plus one: only that rounds.
    EXPECT_LT(relative_difference(logits("back"), logits("ours")), 1e-6);
    convert(at("back"), at("again"));
    EXPECT_EQ(bytes_of(at("again")), bytes_of(at("hub")));
    EXPECT_EQ(bytes_of(at("again"), "config.json"), bytes_of(at("hub"), "config.json"));
    const Json tree = Json::parse(bytes_of(at("hub"), "config.json"));
    // transformers' own MPT has no switches and ignores two numbers; its original, a class of another name, does not.
    EXPECT_EQ(tree["architectures"][0], config.layer.position == "rotary" ? "LlamaForCausalLM"
                                        : name == "mpt"                   ? "MptForCausalLM"
                                                                          : "MPTForCausalLM");
    EXPECT_EQ(tree["torch_dtype"], "float32");
    const bool has_output = io::read_tensors(at("hub"), "model").find("lm_head.weight") != nullptr;
    EXPECT_EQ(has_output, !config.share_emb);
  }
}

/// A norm's weight near zero has more digits than float32 has behind the one that is subtracted.
TEST_F(Convert, EveryBitOfANormSurvives) {
  const TransformerConfig config = hub_models()["llama"];
  save(*noisy_model(config), "ours");
  convert(at("ours"), at("hub"));
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    Tensors tensors = tensors_of(io::read_tensors(at("hub"), "model"));
    for (auto& [name, tensor] : tensors) tensor = tensor.to(dtype);
    tensors["model.norm.weight"] = torch::logspace(-4, 4, 16, 2).mul(1.001).to(dtype);
    fs::create_directories(at("source"));
    write("source", tensors);
    Json tree = Json::parse(bytes_of(at("hub"), "config.json"));
    write_file_atomically(at("source") / "config.json", tree.dump());
    convert(at("source"), at("read"));
    convert(at("read"), at("written"));
    for (const auto& [name, tensor] : tensors_of(io::read_tensors(at("written"), "model"))) {
      EXPECT_EQ(tensor.scalar_type(), dtype) << name;
      EXPECT_TRUE(torch::equal(tensor, tensors[name])) << name;
    }
  }
}

TEST_F(Convert, LargeModelsAreWrittenInShards) {
  save(*noisy_model(hub_models()["mpt"]), "ours");
  ConvertOptions options;
  options.max_shard_bytes = 4096;
  convert(at("ours"), at("hub"), options);
  EXPECT_TRUE(fs::exists(at("hub") / "model.safetensors.index.json"));
  convert(at("hub"), at("back"));
  EXPECT_TRUE(fs::exists(at("back") / "model.safetensors"));
  options.format = "megalodon";
  convert(at("hub"), at("back"), options);
  EXPECT_TRUE(fs::exists(at("back") / "model.safetensors.index.json"));
}

TEST_F(Convert, ATokenizerGoesAlong) {
  save(*noisy_model(hub_models()["llama"]), "ours");
  ConvertOptions options;
  options.tokenizer = {.description = {{"type", "sentencepiece"}, {"vocabulary", 19}},
                       .files = {{"tokenizer.model", "content"}}};
  options.tokenizer->description["bos_token_id"] = 1, options.tokenizer->description["eos_token_id"] = 2;
  convert(at("ours"), at("hub"), options);
  EXPECT_EQ(bytes_of(at("hub"), "tokenizer.model"), "content");
  const Json tree = Json::parse(bytes_of(at("hub"), "config.json"));
  EXPECT_EQ(tree["bos_token_id"], 1);
  EXPECT_EQ(tree["eos_token_id"], 2);
  convert(at("hub"), at("back"), options);
  const nlohmann::json found = load_config(at("back")).tokenizer, given = options.tokenizer->description;
  EXPECT_EQ(found, given);  // in any order
  EXPECT_EQ(bytes_of(at("back"), "tokenizer.model"), "content");

  save(*noisy_model(tiny_config()), "ours");
  options.format = "megalodon-jax";
  convert(at("ours"), at("jax"), options);
  expect_contains(io::read_safetensors(at("jax") / "model.safetensors").metadata().at("config_json"),
                  {R"("bos_token_id":1,)", R"("eos_token_id":2,)", R"("pad_token_id":null,)"});
}

/// Of a folder whose tokenizer stays behind.
TEST_F(Convert, SpecialTokensComeBack) {
  save(*noisy_model(hub_models()["llama"]), "ours");
  convert(at("ours"), at("hub"));
  const Json plain = Json::parse(bytes_of(at("hub"), "config.json"));
  for (const char* key : kSpecialTokens) EXPECT_TRUE(plain.at(key).is_null()) << key;
  Json tree = plain;
  const auto there_and_back = [&] {
    write_file_atomically(at("hub") / "config.json", tree.dump());
    convert(at("hub"), at("back"));
    convert(at("back"), at("again"));
    return Json::parse(bytes_of(at("again"), "config.json"));
  };
  EXPECT_EQ(there_and_back(), tree);
  tree["bos_token_id"] = 3, tree["eos_token_id"] = {2, 7}, tree["pad_token_id"] = 0;
  EXPECT_EQ(there_and_back(), tree);
  // One that is given knows better, of the tokens that it has.
  ConvertOptions options;
  options.tokenizer = {.description = {{"type", "sentencepiece"}, {"eos_token_id", 5}}};
  convert(at("hub"), at("back"), options);
  convert(at("back"), at("again"));
  tree["eos_token_id"] = 5;
  EXPECT_EQ(Json::parse(bytes_of(at("again"), "config.json")), tree);
  // transformers' Llama has these without being told.
  for (const char* key : kSpecialTokens) tree.erase(key);
  const Json untold = there_and_back();
  EXPECT_EQ(untold["bos_token_id"], 1);
  EXPECT_EQ(untold["eos_token_id"], 2);
  EXPECT_TRUE(untold["pad_token_id"].is_null());
}

TEST_F(Convert, WhatHuggingFaceCannotSayIsRefusedByName) {
  using Change = std::function<void(TransformerConfig&)>;
  const std::vector<std::tuple<const char*, Change, std::vector<const char*>>> cases = {
      {"llama", [](auto& c) { c.layer.window = 6; }, {"Llama", "window = 6"}},
      {"llama", [](auto& c) { c.layer.chunk_size = 8; }, {"chunk_size = 8 (it would be read as 0)"}},
      {"llama", [](auto& c) { c.layer.prenorm = false; }, {"prenorm = false"}},
      {"llama", [](auto& c) { c.layer.activation = "relu"; }, {"activation = \"relu\""}},
      {"llama", [](auto& c) { c.layer.norm = "layer", c.layer.bias = true; }, {"norm = \"layer\"", "bias = true"}},
      {"llama", [](auto& c) { c.layer.qk_norm = true; }, {"qk_norm = true"}},
      {"llama", [](auto& c) { c.logit_scale = 2; }, {"logit_scale = 2"}},
      {"llama", [](auto& c) { c.output_size = 7; }, {"output_size = 7"}},
      {"linear", [](auto& c) { c.layer.rope.kind = "part_ntk"; }, {"rope_scaling = \"part_ntk\""}},
      {"mpt", [](auto& c) { c.layer.position = "sinusoidal"; }, {"MPT", "position = \"sinusoidal\""}},
      {"mpt", [](auto& c) { c.layer.ffn_hidden_dim = 20; }, {"ffn_hidden_dim = 20 (it would be read as 16)"}},
      {"mpt", [](auto& c) { c.layer.ffn_hidden_dim = 8; }, {"ffn_hidden_dim = 8 (it would be read as 16)"}},
      {"mpt", [](auto& c) { c.layer.activation = "swiglu"; }, {"activation = \"swiglu\""}}};
  for (const auto& [name, change, parts] : cases) {
    TransformerConfig config = hub_models()[name];
    change(config);
    save(*noisy_model(config), "ours");
    const std::string message = refusal("ours");
    for (const char* part : parts) expect_contains(message, {part});
  }
  // What training alone looks at is left out.
  TransformerConfig config = hub_models()["llama"];
  config.layer.dropout = 0.1, config.layer.init_mode = "he";
  EXPECT_NO_THROW(config_to_hub(config));
}

TEST_F(Convert, DamagedHuggingFaceFoldersAreRefused) {
  save(*noisy_model(hub_models()["yarn"]), "ours");
  convert(at("ours"), at("hub"));
  const Tensors whole = tensors_of(io::read_tensors(at("hub"), "model"));
  const std::string config = bytes_of(at("hub"), "config.json");
  const auto refusal_of = [&](const std::function<void(Tensors&)>& change) {
    Tensors tensors = whole;
    change(tensors);
    write("hub", tensors);
    return refusal("hub");
  };
  const std::string norm = "model.layers.1.input_layernorm.weight", wq = "model.layers.0.self_attn.q_proj.weight";
  const std::string several = refusal_of([&](Tensors& t) { t.erase(norm), t["new"] = torch::zeros({3}), t.erase(wq); });
  expect_contains(several, {"[" + at("hub").string() + "]"});
  for (const char* part : {"missing model.layers.1.input_layernorm.weight [16]", "surplus new [3]",
                           "missing model.layers.0.self_attn.q_proj.weight [16, 16]"})
    expect_contains(several, {part});
  expect_contains(refusal_of([&](Tensors& t) {
                    t[wq] = torch::zeros({8, 16});
                  }),
                  {wq + ": expected shape [16, 16], got [8, 16]"});
  expect_contains(refusal_of([&](Tensors& t) { t[wq] = torch::zeros({16, 16}, torch::kInt32); }), {"floating-point"});
  expect_contains(refusal_of([&](Tensors& t) { t["lm_head.weight"] = torch::zeros({19, 16}); }), {"but they differ"});
  expect_contains(refusal_of([&](Tensors& t) { t[norm] = torch::full({16}, NAN); }), {"not all finite"});
  Tensors older = whole;
  older["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch::zeros({2});
  write("hub", older);
  EXPECT_NO_THROW(convert(at("hub"), at("back")));

  const auto with_config = [&](const char* key, Json value) {
    Json tree = Json::parse(config);
    tree[key] = std::move(value);
    write("hub", whole);
    write_file_atomically(at("hub") / "config.json", tree.dump());
    return refusal("hub");
  };
  // Sizes that no file has are refused before anything of such a size is made.
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers"})
    EXPECT_NE(with_config(key, 1 << 30), "") << key;
  expect_contains(with_config("num_hidden_layers", 3), {"missing model.layers.2."});
  expect_contains(with_config("num_hidden_layers", 1), {"surplus model.layers.1."});
  expect_contains(with_config("hidden_size", uint64_t{1} << 63), {"hidden_size"});
  expect_contains(with_config("attention_bias", true), {"attention_bias"});
  expect_contains(with_config("num_attention_heads", 3), {(at("hub") / "config.json").string() + "] hidden_size: 16"});

  const std::string file = bytes_of(at("hub"));
  write_file_atomically(at("hub") / "config.json", config);
  write_file_atomically(at("hub") / "model.safetensors", file.substr(0, file.size() - 1));
  expect_contains(refusal("hub"), {"model.safetensors"});
  fs::remove(at("hub") / "model.safetensors");
  write_file_atomically(at("hub") / "model.safetensors.index.json",
                        R"({"weight_map": {"w": "../ours/model.safetensors"}})");
  expect_contains(refusal("hub"), {"no plain name"});
}

// ---- the check ------------------------------------------------------------------------------------------------------

TEST_F(Convert, LogitsBesideTheSourceMustAgree) {
  const auto model = noisy_model(hub_models()["llama"]);
  save(*model, "ours");
  convert(at("ours"), at("hub"));
  const Tensor tokens = random_tokens(model->config(), 2, 11);
  const Tensor logits = one_pass(*model, {tokens, {}}).detach();
  const auto store = [&](const Tensor& tokens_BL, const Tensor& logits_BLV) {
    io::write_safetensors(at("hub") / "logits.safetensors",
                          std::vector{to_view("in.tokens", tokens_BL), to_view("out.logits", logits_BLV)});
  };
  store(tokens, logits);
  const Conversion done = convert(at("hub"), at("back"));
  ASSERT_TRUE(done.stored);
  EXPECT_EQ(done.stored->positions, 22);
  EXPECT_EQ(done.stored->same_top, 22);
  EXPECT_LT(done.stored->relative(), 1e-6);
  EXPECT_EQ(done.dtypes, "F32 21");

  Tensor other = logits.clone();
  other[0][0][0] += 1e-3 * logits.abs().max();
  store(tokens, other);
  expect_contains(refusal("hub"), {"those stored beside the source"});
  ConvertOptions options;
  options.check = false;
  EXPECT_FALSE(convert(at("hub"), at("unchecked"), options).checked);
  EXPECT_TRUE(fs::exists(at("unchecked")));
  // Of 16 bits nobody expects that.
  store(tokens, other.to(torch::kBFloat16));
  EXPECT_NO_THROW(convert(at("hub"), at("rounded")));
  store(tokens, logits.narrow(2, 0, 5).contiguous());
  expect_contains(refusal("hub"), {"expected logits [2, 11, 5]"});
  store(tokens, torch::full_like(logits, NAN));
  expect_contains(refusal("hub"), {"out.logits are not all finite"});
  store(tokens + 19, logits);
  expect_contains(refusal("hub"), {"tokens in [0, 19)"});
  store(tokens.narrow(1, 0, 5).contiguous(), logits);
  expect_contains(refusal("hub"), {"out.logits [B,L,V]"});
}

TEST_F(Convert, SizesThatNoPublishedCheckpointHasAreRefusedBeforeAnythingIsMade) {
  save(*noisy_model(tiny_config()), "ours");
  convert(at("ours"), at("published"));
  const Json whole = Json::parse(bytes_of(at("published"), "config.json"));
  for (const char* key :
       {"num_layers", "z_dim", "value_dim", "ffn_hidden_dim", "cema_ndim", "vocab_size", "output_size"}) {
    Json tree = whole;
    tree["model"][key] = 1 << 30;
    write_file_atomically(at("published") / "config.json", tree.dump());
    expect_contains(refusal("published"), {"1073741824"});
  }
}

TEST_F(Convert, FormatsAreChosenByWhatAModelIs) {
  save(*noisy_model(tiny_config()), "ours");
  ConvertOptions options;
  options.format = "hub";
  expect_contains(refusal("ours", options), {"architecture \"transformer\""});
  options.format = "megalodon-hf";
  expect_contains(refusal("ours", options), {"divides by the variance"});
  options.format = "megalodon";
  expect_contains(refusal("ours", options), {"already"});
  options.format = "gguf";
  expect_contains(refusal("ours", options), {"megalodon, published, hub"});
  options.format = "";
  EXPECT_STREQ(convert(at("ours"), at("published")).to->name, "published");
  options.format = "megalodon-jax";
  convert(at("published"), at("jax"), options);
  options.format = "published";
  convert(at("jax"), at("again"), options);
  EXPECT_EQ(bytes_of(at("again"), "consolidated.pth"), bytes_of(at("published"), "consolidated.pth"));
  fs::create_directories(at("empty"));
  expect_contains(refusal("empty"), {"expected a model folder"});
}

// ---- ports of Megalodon ---------------------------------------------------------------------------------------------

/// Names of both ports; layouts of the JAX port.
Tensors port_tensors(const Model& model) {
  Tensors tensors;
  const auto replace = [](std::string& name, const std::string& from, const std::string& to) {
    if (const size_t place = name.find(from); place != std::string::npos) name.replace(place, from.size(), to);
  };
  for (const auto& item : model.named_parameters()) {
    const Tensor value = item.value().detach();
    std::string name = "model." + item.key();
    replace(name, "model.output.final_norm", "model.norm");
    replace(name, "model.output.output", "lm_head");
    replace(name, ".mega.", ".attn.");
    replace(name, ".nffn.", ".ffn.");
    replace(name, ".rmsnorm.weight", ".rmsnorm.gamma");
    if (name.ends_with("cema.gamma")) {
      tensors[name + "_real"] = value.slice(2, 0, 1).squeeze(2).contiguous();
      tensors[name + "_imag"] = value.slice(2, 1, 2).squeeze(2).contiguous();
    } else {
      tensors[name] = name.ends_with("cema.omega") ? value.view({-1}) : value.clone();
    }
  }
  return tensors;
}

/// Halves of a head in place of neighbours: number i of the first half is 2i, of the second 2i + 1.
Tensor in_halves(const Tensor& ours, int64_t axis, int64_t heads) {
  Tensor there = torch::empty_like(ours);
  const int64_t width = ours.size(axis) / heads;
  for (int64_t head = 0; head < heads; ++head)
    for (int64_t i = 0; i < width; ++i)
      there.select(axis, head * width + i)
          .copy_(ours.select(axis, head * width + (i % (width / 2)) * 2 + i / (width / 2)));
  return there;
}

MegalodonConfig hf_config() {
  MegalodonConfig config = tiny_config();
  config.share_emb = true;
  return config;
}

Tensors hf_tensors(const Model& model) {
  Tensors tensors = port_tensors(model);
  const int64_t heads = hf_config().num_heads;
  for (int layer = 0; layer < 2; ++layer) {
    const std::string prefix = fmt::format("model.layers.{}.", layer);
    for (const char* name : {"attn.wz.weight", "attn.wz.bias"})
      tensors[prefix + name] = in_halves(tensors[prefix + name], 0, heads);
    for (const char* name : {"attn.gamma", "attn.beta"})
      tensors[prefix + name] = in_halves(tensors[prefix + name], 1, heads);
    tensors[prefix + "ffn.norm.weight"] += 1;
    tensors.erase(prefix + "ffn.alpha");
    tensors[prefix + "attn.wh2.bias"] = torch::zeros({16});
    for (const char* name : {"ffn.fc1.bias", "ffn.fc3.bias"}) tensors[prefix + name] = torch::zeros({20});
    tensors[prefix + "ffn.fc2.bias"] = torch::zeros({16});
  }
  return tensors;
}

Json hf_json() {
  MegalodonConfig config = hf_config();
  Json tree = {{"model_type", "megalodon"}, {"architectures", {"MegalodonForCausalLM"}}, {"max_positions", 1000000}};
  tree.update(config::write(config));
  tree["share_emb"] = false, tree["rope_base"] = nullptr, tree["pad_token_id"] = 0;
  return tree;
}

/// A model whose layer scales are those that the port has.
std::unique_ptr<Model> hf_model() {
  auto model = noisy_model(hf_config());
  const torch::NoGradGuard no_grad;
  model->named_parameters()["layers.0.nffn.alpha"].fill_(0.1);
  model->named_parameters()["layers.1.nffn.alpha"].fill_(0.05);
  return model;
}

TEST_F(Convert, TheHuggingFacePortIsReadOnRequest) {
  const auto model = hf_model();
  save(*model, "ours");
  Tensors tensors = hf_tensors(*model);
  write("hf", tensors);
  write_file_atomically(at("hf") / "config.json", hf_json().dump());
  expect_contains(refusal("hf"), {"--accept-other-norm"});
  ConvertOptions options;
  options.accept_other_norm = true;
  EXPECT_STREQ(convert(at("hf"), at("back"), options).from->name, "megalodon-hf");
  EXPECT_LT(relative_difference(logits("back"), logits("ours")), 1e-6);

  // The one matrix of a tied pair may have either name, or both.
  const Tensor embedding = tensors["model.embed.weight"];
  tensors["lm_head.weight"] = embedding;
  write("hf", tensors);
  convert(at("hf"), at("back"), options);
  tensors.erase("model.embed.weight");
  write("hf", tensors);
  convert(at("hf"), at("back"), options);
  EXPECT_LT(relative_difference(logits("back"), logits("ours")), 1e-6);
  tensors["model.embed.weight"] = embedding + 1;
  write("hf", tensors);
  expect_contains(refusal("hf", options), {"but they differ"});
}

TEST_F(Convert, WhatOfTheHuggingFacePortHasNoCounterpartIsRefused) {
  const auto model = hf_model();
  ConvertOptions options;
  options.accept_other_norm = true;
  for (const char* name : {"attn.wh2.bias", "ffn.fc1.bias", "ffn.fc2.bias", "ffn.fc3.bias"}) {
    Tensors tensors = hf_tensors(*model);
    tensors[fmt::format("model.layers.1.{}", name)][3] = -0.25;
    write("hf", tensors);
    write_file_atomically(at("hf") / "config.json", hf_json().dump());
    expect_contains(refusal("hf", options), {fmt::format("model.layers.1.{}: has no counterpart", name)});
    expect_contains(refusal("hf", options), {"largest value is 0.25"});
  }
  write("hf", hf_tensors(*model));
  const std::vector<std::pair<const char*, Json>> cases = {
      {"efficient_attn", "flash"}, {"cache_unbounded", true}, {"max_cache_len", 64}, {"chunk_size", 2.5},
      {"ffn_hidden_dim", 1 << 30}, {"z_dim", 1 << 30},        {"num_layers", 3},     {"num_layers", 1 << 30}};
  for (const auto& [key, value] : cases) {
    Json tree = hf_json();
    tree[key] = value;
    write_file_atomically(at("hf") / "config.json", tree.dump());
    EXPECT_NE(refusal("hf", options), "") << key;
  }
  Json tree = hf_json();
  tree["max_cache_len"] = tree["chunk_size"];
  write_file_atomically(at("hf") / "config.json", tree.dump());
  convert(at("hf"), at("back"), options);
}

/// As the port's own writer makes them: keys in order, no spaces, numbers as Python prints them.
std::map<std::string, std::string> jax_metadata(const Tensors& tensors, bool tied) {
  const std::string config =
      std::string(R"({"accum_dtype":"float32","attention_dropout":0.0,"attention_dropout_mode":"post_softmax",)") +
      R"("attention_softmax_dtype":"float32","attention_window":null,"bos_token_id":null,"cema_ndim":4,"chunk_size":8,)" +
      R"("compute_dtype":"float32","dropout":0.0,"eos_token_id":null,"ffn_hidden_dim":20,"hidden_dropout":0.0,)" +
      R"("init_mode":"he","loss_softmax_dtype":"float32","model_dim":16,"norm_affine":true,"norm_eps":1e-05,)" +
      R"("norm_num_groups":4,"num_heads":2,"num_layers":2,"output_size":-1,"pad_token_id":null,"param_dtype":"float32",)" +
      R"("rescale_nffn":true,"rope_base":10000.0,"scale_emb":true,"share_emb":)" + (tied ? "true" : "false") +
      R"(,"swiglu":true,"use_associative_segment_scan":true,"use_checkpoint":false,"value_dim":24,"vocab_size":19,)" +
      R"("z_dim":8})";
  std::string manifest;
  for (const auto& [name, tensor] : tensors)
    manifest +=
        fmt::format("{}[\"{}\",[{}],\"float32\"]", manifest.empty() ? "" : ",", name, fmt::join(tensor.sizes(), ","));
  return {{"format", "megalodon-jax"},
          {"format_version", "2"},
          {"config_json", config},
          {"config_fingerprint", sha256_hex(config)},
          {"parameter_manifest_sha256", sha256_hex("[" + manifest + "]")},
          {"rope_layout", "adjacent_pair"},
          {"normalization_storage", "plus_one"},
          {"bias_schema", "upstream"},
          {"initializer_schema", "split-boundary-internal-v1"},
          {"tying", tied ? "tied" : "untied"},
          {"dtype_policy", "fp32-params-fp32-or-bf16-compute"}};
}

TEST_F(Convert, TheJaxPortIsReadAndWrittenAsItWritesItself) {
  for (const bool tied : {false, true}) {
    MegalodonConfig config = tiny_config();
    config.share_emb = tied;
    const auto model = noisy_model(config);
    save(*model, "ours");
    const Tensors tensors = port_tensors(*model);
    write("jax", tensors, jax_metadata(tensors, tied));
    convert(at("jax"), at("back"));
    EXPECT_EQ(bytes_of(at("back")), bytes_of(at("ours")));
    EXPECT_EQ(bytes_of(at("back"), "config.json"), bytes_of(at("ours"), "config.json"));
    convert(at("jax") / "model.safetensors", at("back"));
    ConvertOptions options;
    options.format = "megalodon-jax";
    convert(at("ours"), at("written"), options);
    EXPECT_EQ(io::read_safetensors(at("written") / "model.safetensors").metadata(), jax_metadata(tensors, tied));
    EXPECT_EQ(bytes_of(at("written")), bytes_of(at("jax")));

    auto with_tokens = jax_metadata(tensors, tied);
    std::string& told = with_tokens["config_json"];
    for (const auto& [key, token] : {std::pair("bos", "3"), {"eos", "7"}, {"pad", "0"}}) {
      const std::string untold = fmt::format("\"{}_token_id\":null", key);
      told.replace(told.find(untold), untold.size(), fmt::format("\"{}_token_id\":{}", key, token));
    }
    with_tokens["config_fingerprint"] = sha256_hex(told);
    write("jax", tensors, with_tokens);
    convert(at("jax"), at("back"));
    convert(at("back"), at("written"), options);
    EXPECT_EQ(io::read_safetensors(at("written") / "model.safetensors").metadata(), with_tokens);
  }
}

TEST_F(Convert, WhatOfTheJaxPortIsDamagedOrAnotherFunctionIsRefused) {
  const Tensors tensors = port_tensors(*noisy_model(tiny_config()));
  const auto whole = jax_metadata(tensors, false);
  const auto refusal_with = [&](const std::string& key, const std::string& value) {
    auto metadata = whole;
    metadata[key] = value;
    write("jax", tensors, metadata);
    return refusal("jax");
  };
  for (const auto& [key, value] : whole)
    if (key != "initializer_schema" && key != "dtype_policy" && key != "config_json")
      expect_contains(refusal_with(key, "x"), {"expected " + key});
  expect_contains(refusal_with("config_json", "{}"), {"config_fingerprint"});
  auto metadata = whole;
  metadata.erase("rope_layout");
  write("jax", tensors, metadata);
  expect_contains(refusal("jax"), {"rope_layout is missing"});

  const auto refusal_of = [&](const std::string& from, const std::string& to) {
    auto other = whole;
    std::string& config = other["config_json"];
    config.replace(config.find(from), from.size(), to);
    other["config_fingerprint"] = sha256_hex(config);
    write("jax", tensors, other);
    return refusal("jax");
  };
  expect_contains(refusal_of("\"attention_window\":null", "\"attention_window\":6"), {"attention_window = 6"});
  expect_contains(refusal_of("\"attention_dropout\":0.0,\"attention_dropout_mode\":\"post_softmax\"",
                             "\"attention_dropout\":0.1,\"attention_dropout_mode\":\"dropkey\""),
                  {"dropkey"});
  expect_contains(refusal_of("\"swiglu\":true", "\"swiglu\":false"), {"surplus model.layers.0.ffn.fc3.weight"});
  expect_contains(refusal_of("\"swiglu\"", "\"window\""), {"window"});
  expect_contains(refusal_of("\"num_layers\":2", "\"num_layers\":1000000000"), {"1000000000 layers"});

  Tensors fewer = tensors;
  fewer.erase("model.layers.1.attn.cema.gamma_imag");
  write("jax", fewer, jax_metadata(fewer, false));
  expect_contains(refusal("jax"), {"missing model.layers.1.attn.cema.gamma_imag [16, 4]"});

  MegalodonConfig config = tiny_config();
  config.init_mode = "none";
  save(*noisy_model(config), "ours");
  ConvertOptions options;
  options.format = "megalodon-jax";
  expect_contains(refusal("ours", options), {"init_mode"});
}

/// The JAX port has float32 alone; what we store in 16 bits is widened, which changes no number.
TEST_F(Convert, MatricesOf16BitsAreWidenedForTheJaxPort) {
  const auto model = noisy_model(tiny_config());
  NamedTensors weights = named_weights(*model);
  for (auto& [name, tensor] : weights) tensor = tensor.detach().to(torch::kBFloat16);
  fs::create_directories(at("ours"));
  write_parts(model_parts(model->config(), weights, {{"type", "none"}}), at("ours"));
  ConvertOptions options;
  options.format = "megalodon-jax";
  convert(at("ours"), at("jax"), options);
  convert(at("jax"), at("back"));
  EXPECT_TRUE(torch::equal(logits("back"), logits("ours")));
}

}  // namespace
}  // namespace megalodon
