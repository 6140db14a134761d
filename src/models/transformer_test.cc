// Of the Transformer alone: counts, what does not stream, and what is read and what refused of Hugging Face's
// configurations; golden_test reads whole folders.
#include "models/transformer.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "models/architecture_testing.h"
#include "models/hub.h"
#include "models/testing.h"
#include "models/weights.h"

namespace megalodon {
namespace {

using testing::Architecture;
using testing::noisy_model;
using testing::one_pass;
using testing::random_tokens;
using testing::tiny_transformer;

/// What the presets leave off.
std::vector<Preset> transformer_variants() {
  TransformerConfig clipped = tiny_transformer("alibi");
  clipped.layer.norm = "layer", clipped.layer.activation = "gelu", clipped.layer.qk_norm = true;
  clipped.layer.clip_qkv = 2, clipped.layer.num_kv_heads = 1, clipped.logit_scale = 0.5;
  TransformerConfig sliding = clipped;
  sliding.layer.window = 6, sliding.layer.qk_norm = false, sliding.layer.softmax_scale = 0.7;
  TransformerConfig chunked = tiny_transformer("rotary");
  chunked.layer.num_kv_heads = 2, chunked.layer.chunk_size = 8;
  chunked.layer.rope = {.kind = "yarn", .factor = 4, .original_length = 16};
  TransformerConfig learned = tiny_transformer("learned");
  learned.layer.window = 5, learned.layer.chunk_size = 9, learned.layer.bias = true;
  TransformerConfig bounded = tiny_transformer("learned");
  bounded.max_positions = 1024;
  return {{"clipped", "", clipped.clone()},
          {"sliding", "", sliding.clone()},
          {"chunked", "", chunked.clone()},
          {"learned", "", learned.clone()},
          {"bounded", "", bounded.clone()}};
}

INSTANTIATE_TEST_SUITE_P(Transformer, Architecture, ::testing::ValuesIn(transformer_variants()),
                         testing::name_of_preset);

TEST(Transformer, ParametersAreCounted) {
  // A layer: queries and outputs 32 x 32, keys and values 16 x 32, three of 32 x 64, two norms.
  const int64_t layer = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 32 * 64 + 2 * 32;
  EXPECT_EQ(make_preset("llama2-tiny")->build()->info().parameters, 2 * layer + 2 * 256 * 32 + 32);
}

TEST(Transformer, GroupedHeadsAreKeptOnce) {
  const CacheShape cache = make_preset("llama2-tiny")->build()->info().cache;
  EXPECT_EQ(cache.slots, 2);
  EXPECT_EQ(cache.heads, 2) << "of four of queries";
  EXPECT_EQ(cache.key_width, 8);
}

TEST(Transformer, ScalingsThatDependOnTheLengthDoNotStream) {
  TransformerConfig config = tiny_transformer("rotary");
  config.layer.rope = {.kind = "dynamic_ntk", .factor = 2, .original_length = 8};
  const auto model = noisy_model(config);
  EXPECT_NO_THROW(one_pass(*model, {random_tokens(config, 1, 12), {}}));
  StreamCarry carry;
  EXPECT_THROW(model->hidden({random_tokens(config, 1, 4), {}}, carry), Error);
}

TEST(TransformerConfig, ContradictionsAreNamed) {
  const auto refuses = [](const std::string& part, const std::function<void(TransformerConfig&)>& change) {
    auto config = tiny_transformer("rotary");
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "accepted a bad " << part;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuses("model.num_heads", [](auto& c) { c.layer.num_heads = 0; });
  refuses("model.model_dim", [](auto& c) { c.layer.num_heads = 3; });
  refuses("model.num_kv_heads", [](auto& c) { c.layer.num_kv_heads = 3; });
  refuses("model.position", [](auto& c) { c.layer.position = "relative"; });
  refuses("model.position", [](auto& c) { c.layer.num_heads = 16; });
  refuses("model.position",
          [](auto& c) { c.layer.position = "sinusoidal", c.layer.model_dim = 15, c.layer.num_heads = 3; });
  refuses("model.rope_scaling", [](auto& c) { c.layer.rope.kind = "cubic"; });
  refuses("model.rope_factor", [](auto& c) { c.layer.rope.factor = 0.5; });
  refuses("model.norm", [](auto& c) { c.layer.norm = "batch"; });
  refuses("model.activation", [](auto& c) { c.layer.activation = "tanh"; });
  refuses("model.window", [](auto& c) { c.layer.window = -1; });
  refuses("model.dropout", [](auto& c) { c.layer.dropout = 1; });
  refuses("model.share_emb", [](auto& c) { c.share_emb = true, c.output_size = 5; });
}

TEST(TransformerPresets, HaveThePublishedSizes) {
  const std::map<std::string, int64_t> sizes = {
      {"llama2-7B", 6738415616}, {"llama2-13B", 13015864320}, {"mpt-7B", 6649286656}};
  for (const auto& [name, parameters] : sizes)
    EXPECT_EQ(make_preset(name)->build()->info().parameters, parameters) << name;
}

/// Under the other names and in the other order of rows, and back.
TEST(Hub, RowsThatAreWrittenAreReadBack) {
  TransformerConfig config = tiny_transformer("rotary");
  config.layer.num_kv_heads = 2;
  const auto model = noisy_model(config);
  for (const auto names : {PublishedNames::kHubLlama, PublishedNames::kHubMpt}) {
    const std::string name = "layers.1.attention.wk.weight";
    const Tensor ours = model->named_parameters()[name].detach();
    const PublishedPart part = published_part(names, name);
    const Tensor there = torch::zeros({names == PublishedNames::kHubMpt ? 32 : 8, 16});
    write_our_rows(ours, part, config.layer, there);
    EXPECT_TRUE(torch::equal(our_rows(there, part, config.layer), ours)) << part.name;
  }
  EXPECT_THROW(published_part(PublishedNames::kHubMpt, "layers.0.feed_forward.w3.weight"), Error);
}

using Json = nlohmann::ordered_json;

Json small_llama() {
  return {{"model_type", "llama"},    {"vocab_size", 19},      {"num_hidden_layers", 2}, {"hidden_size", 16},
          {"num_attention_heads", 4}, {"rope_theta", 10000.0}, {"intermediate_size", 20}};
}

Json small_mpt() {
  return {{"model_type", "mpt"}, {"vocab_size", 19}, {"n_layers", 2}, {"d_model", 16}, {"n_heads", 4}};
}

TEST(Hub, WhatIsReadOfAConfigurationIsWhatItsModelFolderSays) {
  Json tree = small_llama();
  tree["rope_scaling"] = {{"rope_type", "yarn"},
                          {"factor", 4.0},
                          {"original_max_position_embeddings", 64},
                          {"beta_fast", 48.0},
                          {"beta_slow", 2.0}};
  TransformerConfig config = config_from_hub(tree, "here");
  const Json written = Json::parse(config_json(config, {}));
  for (const char* key : {"rope_factor", "rope_original_length", "rope_beta_fast", "rope_beta_slow"})
    EXPECT_TRUE(written.dump().find(key) != std::string::npos) << key;
  EXPECT_NE(written.dump().find("48"), std::string::npos);
  tree.erase("rope_theta"), tree.erase("rope_scaling");
  tree["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 5000.0}};
  EXPECT_EQ(config_from_hub(tree, "here").layer.rope_base, 5000);
}

/// The newer name of the object and the older one.
TEST(Hub, RotaryScalingIsReadUnderEitherName) {
  const Json linear = {{"rope_type", "linear"}, {"factor", 4.0}};
  Json with_base = linear;
  with_base["rope_theta"] = 5000.0;
  for (const auto& [newer, older, base] :
       std::vector<std::tuple<Json, Json, double>>{{nullptr, linear, 10000},
                                                   {Json::object(), linear, 10000},
                                                   {linear, nullptr, 10000},
                                                   {linear, linear, 10000},
                                                   {with_base, linear, 5000},
                                                   {linear, {{"type", "linear"}, {"factor", 4}}, 10000}}) {
    Json tree = small_llama();
    tree["rope_parameters"] = newer, tree["rope_scaling"] = older;
    const TransformerConfig config = config_from_hub(tree, "here");
    EXPECT_EQ(config.layer.rope.kind, "linear") << tree;
    EXPECT_EQ(config.layer.rope.factor, 4) << tree;
    EXPECT_EQ(config.layer.rope_base, base) << tree;
  }
}

TEST(Hub, WhatHasNoCounterpartIsRefusedByName) {
  const auto error = [](Json tree, const std::string& key, Json value) -> std::string {
    tree[nlohmann::json::json_pointer(key)] = std::move(value);
    try {
      config_from_hub(tree, "here");
    } catch (const Error& found) {
      return found.what();
    }
    return "";
  };
  EXPECT_EQ(error(small_llama(), "/pad_token_id", 0), "");
  EXPECT_EQ(error(small_mpt(), "/pad_token_id", 0), "");
  const Json yarn = {{"rope_type", "yarn"}, {"factor", 2.0}};
  const auto yarn_with = [&](const char* key, Json value) {
    Json scaling = yarn;
    scaling[key] = std::move(value);
    return scaling;
  };
  // What is said though it is so anyway.
  EXPECT_EQ(error(small_llama(), "/rope_scaling", yarn_with("truncate", true)), "");
  EXPECT_EQ(error(small_llama(), "/rope_scaling", yarn_with("partial_rotary_factor", 1.0)), "");
  EXPECT_EQ(error(small_llama(), "/rope_scaling", yarn_with("mscale", nullptr)), "");
  EXPECT_EQ(error(small_mpt(), "/ffn_config/ffn_act_fn", {{"approximate", "none"}, {"name", "gelu"}}), "");
  Json with_newer = small_llama();
  with_newer["rope_parameters"] = yarn;
  const std::vector<std::tuple<Json, const char*, Json, const char*>> cases = {
      {small_llama(), "/rope_parameters", {{"rope_type", "llama3"}, {"factor", 8.0}}, "llama3"},
      {small_llama(), "/rope_scaling", yarn_with("mscale", 1.0), "mscale = 1.0"},
      {small_llama(), "/rope_scaling", yarn_with("truncate", false), "truncate = false is not supported, only true"},
      {small_llama(), "/rope_scaling", yarn_with("partial_rotary_factor", 0.5), "partial_rotary_factor = 0.5"},
      {small_llama(), "/rope_scaling", {{"type", "linear"}}, "factor"},
      {with_newer, "/rope_scaling", yarn_with("factor", 4.0), "expected the same of both"},
      {small_llama(), "/rope_scaling", 3, "rope_scaling"},
      {small_llama(), "/num_hidden_layers", 1e300, "num_hidden_layers"},
      {small_llama(), "/num_hidden_layers", 2.5, "num_hidden_layers"},
      {small_llama(), "/vocab_size", "many", "vocab_size"},
      {small_llama(), "/attention_bias", true, "attention_bias"},
      {small_mpt(), "/attn_config/rope", true, "rope"},
      {small_mpt(), "/attn_config/sliding_window_size", 64, "sliding_window_size"},
      {small_mpt(), "/ffn_config/ffn_act_fn", {{"name", "relu"}}, "ffn_act_fn"},
      {small_mpt(), "/expansion_ratio", int64_t{1} << 62, "expansion_ratio"},
      // What validate() says of our fields names theirs.
      {small_llama(), "/num_hidden_layers", 0, "[here] num_hidden_layers: expected at least 1"},
      {small_llama(), "/hidden_size", 18, "[here] hidden_size: 18 must be divisible by num_attention_heads = 4"},
      {small_llama(), "/rope_scaling", yarn_with("factor", 0.5), "[here] rope_scaling.factor: expected"},
      {small_mpt(), "/n_heads", 0, "[here] n_heads: expected at least 1"},
      {small_mpt(), "/attn_config/kv_n_heads", 3, "[here] attn_config.kv_n_heads: n_heads = 4 must be a multiple"},
      {small_mpt(), "/model_type", 7, "model_type"}};
  for (const auto& [tree, key, value, part] : cases) {
    const std::string found = error(tree, key, value);
    EXPECT_NE(found.find(part), std::string::npos) << key << ": " << found;
    EXPECT_NE(found.find("here"), std::string::npos) << key << ": " << found;
  }
}

}  // namespace
}  // namespace megalodon
