// Proofs of the Transformer: counts, streams, documents, gradients, recomputation, learning, and what is read and what
// refused of Hugging Face's configurations; golden_test reads whole folders.
#include "models/transformer.h"

#include <gtest/gtest.h>

#include <random>

#include "base/check.h"
#include "models/hub.h"
#include "models/testing.h"
#include "models/weights.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::between_neighbours;
using testing::close;
using testing::in_calls;
using testing::noisy_model;
using testing::one_pass;
using testing::random_split;
using testing::random_tokens;
using testing::results_of_stretches;
using testing::tiny_transformer;
using testing::tiny_transformers;

std::string describe(const TransformerConfig& config) {
  return fmt::format("{}, chunk {}, window {}", config.layer.position, config.layer.chunk_size, config.layer.window);
}

TEST(Transformer, ParametersAndStateAreCounted) {
  const auto configs = tiny_transformers();
  // A layer of the first: queries and outputs 16 x 16, keys and values 8 x 16, three of 16 x 20, two norms.
  const int64_t layer = 2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 20 + 2 * 16;
  EXPECT_EQ(configs[0].build()->info().parameters, 2 * layer + 2 * 19 * 16 + 16);
  torch::NoGradGuard no_grad;
  for (const TransformerConfig& config : configs) {
    SCOPED_TRACE(describe(config));
    const auto model = noisy_model(config);
    const ModelInfo info = model->info();
    StreamCarry carry;
    for (const int64_t steps : {11, 12}) model->hidden({random_tokens(config, 1, steps), {}}, carry);
    if (info.state_bytes_a_token > 0)
      EXPECT_EQ(carry.bytes(), info.state_bytes_fixed + 23 * info.state_bytes_a_token);
    else if (config.layer.chunk_size == 8)
      EXPECT_EQ(carry.bytes(), info.state_bytes_full);  // 23 steps end one before the third chunk's end
    else
      EXPECT_LE(carry.bytes(), info.state_bytes_full);
  }
}

TEST(Transformer, RandomSplitsEqualOnePassWithAndWithoutDocuments) {
  torch::NoGradGuard no_grad;
  for (const TransformerConfig& config : tiny_transformers()) {
    const auto model = noisy_model(config);
    const Tensor tokens = random_tokens(config, 3, 37);
    Tensor starts = torch::zeros({3, 37}, torch::kBool);
    starts[0][5] = true, starts[0][6] = true, starts[1][20] = true, starts[2][0] = true, starts[2][36] = true;
    std::mt19937_64 rng(3);
    for (const Tensor& documents : {Tensor(), starts}) {
      const Tensor expected = one_pass(*model, {tokens, documents});
      for (int i = 0; i < 40; ++i) {
        StreamCarry carry;
        const auto calls = random_split(37, rng);
        ASSERT_TRUE(close(in_calls(*model, {tokens, documents}, calls, carry), expected, 1e-5))
            << describe(config) << " " << ::testing::PrintToString(calls);
      }
    }
  }
}

TEST(Transformer, ADocumentNeverSeesItsNeighbours) {
  for (const TransformerConfig& config : tiny_transformers()) {
    const auto model = noisy_model(config);
    const auto a = between_neighbours(*model, config, 7, 19, 25, 100);
    const auto b = between_neighbours(*model, config, 7, 19, 25, 200);
    for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << describe(config) << " " << i;
    const Tensor alone = one_pass(*model, {random_tokens(config, 1, 25).slice(1, 7, 19), {}});
    EXPECT_TRUE(close(a[0], alone, 1e-5)) << describe(config);
  }
}

TEST(Transformer, GradientsMatchFiniteDifferences) {
  for (TransformerConfig config : tiny_transformers()) {
    config.num_layers = 1, config.vocab_size = 5;
    const auto model = noisy_model(config);
    model->to(torch::kFloat64);
    const Tensor tokens = random_tokens(config, 1, 10), targets = random_tokens(config, 1, 10, 8);
    const auto loss = [&] {
      NoCarry none;
      return model->nll({tokens, {}}, targets, none).mean();
    };
    loss().backward();
    torch::NoGradGuard no_grad;
    const double step = 1e-6;
    for (const auto& [name, parameter] : model->named_parameters().pairs()) {
      Tensor flat = parameter.view({-1});
      const Tensor gradient = parameter.grad().view({-1});
      for (int64_t i = 0; i < flat.numel(); i += std::max<int64_t>(1, flat.numel() / 5)) {
        const double x = flat[i].item<double>();
        flat[i] = x + step;
        const double above = loss().item<double>();
        flat[i] = x - step;
        const double below = loss().item<double>();
        flat[i] = x;
        EXPECT_NEAR(gradient[i].item<double>(), (above - below) / (2 * step), 1e-7)
            << name << " " << i << " " << describe(config);
      }
    }
  }
}

TEST(Transformer, EveryParameterIsTrainedAndInitIsAFunctionOfTheSeed) {
  for (const TransformerConfig& config : tiny_transformers()) {
    const auto a = config.build(), b = config.build(), c = config.build();
    a->init_weights(5), b->init_weights(5), c->init_weights(6);
    NoCarry none;
    a->nll({random_tokens(config, 2, 20), {}}, random_tokens(config, 2, 20, 9), none).mean().backward();
    bool differs = false;
    for (const auto& [name, parameter] : a->named_parameters().pairs()) {
      EXPECT_TRUE(torch::equal(parameter, b->named_parameters()[name])) << name;
      EXPECT_GT(parameter.grad().abs().max().item<double>(), 0) << name << " " << describe(config);
      EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>()) << name;
      differs |= !torch::equal(parameter, c->named_parameters()[name]);
    }
    EXPECT_TRUE(differs);
  }
}

TEST(Transformer, CheckpointingChangesNothingAndKeepsTheCarry) {
  for (TransformerConfig config : tiny_transformers()) {
    config.layer.dropout = config.layer.hidden_dropout = config.layer.attention_dropout = 0.2;
    const auto model = noisy_model(config);
    model->train();
    std::vector<Tensor> results[2];
    for (const bool on : {false, true}) {
      model->set_checkpointing(on);
      results[on] = results_of_stretches(*model, 26);
    }
    ASSERT_EQ(results[0].size(), results[1].size());
    for (size_t i = 0; i < results[0].size(); ++i)
      EXPECT_TRUE(torch::equal(results[0][i], results[1][i])) << describe(config) << " " << i;
  }
}

TEST(Transformer, OneBatchIsLearnt) {
  for (const TransformerConfig& config : tiny_transformers()) {
    const auto model = config.build();
    model->init_weights(1);
    const Tensor tokens = random_tokens(config, 2, 12), targets = random_tokens(config, 2, 12, 9);
    // Adam's first step: signs of gradients.
    double first = 0, last = 0;
    for (int step = 0; step < 150; ++step) {
      NoCarry none;
      model->zero_grad();
      const Tensor loss = model->nll({tokens, {}}, targets, none).mean();
      loss.backward();
      last = loss.item<double>();
      if (step == 0) first = last;
      torch::NoGradGuard no_grad;
      for (Tensor& parameter : model->parameters()) parameter.sub_(parameter.grad().sign(), 0.004);
    }
    EXPECT_LT(last, 0.5 * first) << describe(config);
  }
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
  const TransformerConfig config = tiny_transformers()[0];
  const auto model = noisy_model(config);
  for (const auto names : {TransformerNames::kHubLlama, TransformerNames::kHubMpt}) {
    const std::string name = "layers.1.attention.wk.weight";
    const Tensor ours = model->named_parameters()[name].detach();
    const PublishedPart part = published_part(names, name);
    const Tensor there = torch::zeros({names == TransformerNames::kHubMpt ? 32 : 8, 16});
    write_our_rows(ours, part, config.layer, there);
    EXPECT_TRUE(torch::equal(our_rows(there, part, config.layer), ours)) << part.name;
  }
  EXPECT_THROW(published_part(TransformerNames::kHubMpt, "layers.0.feed_forward.w3.weight"), Error);
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
  const std::vector<std::tuple<Json, const char*, Json, const char*>> cases = {
      {small_llama(), "/rope_parameters", {{"rope_type", "llama3"}, {"factor", 8.0}}, "llama3"},
      {small_llama(), "/rope_scaling", {{"rope_type", "yarn"}, {"factor", 2.0}, {"mscale", 1.0}}, "mscale"},
      {small_llama(), "/rope_scaling", {{"type", "linear"}}, "factor"},
      {small_llama(), "/rope_scaling", 3, "rope_scaling"},
      {small_llama(), "/num_hidden_layers", 1e300, "num_hidden_layers"},
      {small_llama(), "/num_hidden_layers", 2.5, "num_hidden_layers"},
      {small_llama(), "/vocab_size", "many", "vocab_size"},
      {small_llama(), "/attention_bias", true, "attention_bias"},
      {small_mpt(), "/attn_config/rope", true, "rope"},
      {small_mpt(), "/attn_config/sliding_window_size", 64, "sliding_window_size"},
      {small_mpt(), "/ffn_config/ffn_act_fn", {{"name", "relu"}}, "ffn_act_fn"},
      {small_mpt(), "/expansion_ratio", int64_t{1} << 62, "expansion_ratio"},
      {small_mpt(), "/model_type", 7, "model_type"}};
  for (const auto& [tree, key, value, part] : cases) {
    const std::string found = error(tree, key, value);
    EXPECT_NE(found.find(part), std::string::npos) << key << ": " << found;
    EXPECT_NE(found.find("here"), std::string::npos) << key << ": " << found;
  }
}

}  // namespace
}  // namespace megalodon
