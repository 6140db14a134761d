#include "models/weights.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <set>
#include <sstream>

#include "base/testing.h"
#include "models/convert.h"
#include "models/published.h"
#include "models/testing.h"

namespace megalodon {
namespace {

using testing::noisy_model;
using testing::tiny_config;
using Json = nlohmann::ordered_json;

class Weights : public FolderTest {
 protected:
  void SetUp() override {
    FolderTest::SetUp();
    fs::create_directories(folder_ / "model");
  }

  /// A tiny model, which lies in folder_ / "model".
  std::unique_ptr<Model> saved_model(bool tied, const char* tokenizer) const {
    auto config = tiny_config();
    config.share_emb = tied;
    auto model = noisy_model(config);
    save_model(*model, {{"type", tokenizer}}, folder_ / "model");
    return model;
  }
};

TEST_F(Weights, AModelFolderRoundTripsBitwise) {
  for (const bool tied : {false, true}) {
    const auto model = saved_model(tied, "bytes");
    const LoadedModel loaded = load_model(folder_ / "model");
    EXPECT_EQ(loaded.tokenizer, Json({{"type", "bytes"}}));
    for (const auto& [name, tensor] : named_weights(*model))
      EXPECT_TRUE(torch::equal(tensor, loaded.model->named_parameters()[name])) << name;
  }
}

TEST_F(Weights, PublishedRoundTripsThreeTimesBitwise) {
  for (const bool tied : {false, true}) {
    const auto model = saved_model(tied, "none");
    for (int round = 0; round < 3; ++round) {
      convert(folder_ / "model", folder_ / "published");
      EXPECT_TRUE(is_published(folder_ / "published"));
      convert(folder_ / "published", folder_ / "model");
    }
    const LoadedModel loaded = load_model(folder_ / "model");
    for (const auto& [name, tensor] : named_weights(*model))
      EXPECT_TRUE(torch::equal(tensor, loaded.model->named_parameters()[name])) << name;
  }
}

/// All of a bfloat16 state dict is rounded, the rotary frequencies too; only the parameters are taken from it.
TEST_F(Weights, PublishedBfloat16IsWidenedWithoutItsBuffers) {
  for (const bool tied : {false, true}) {
    const auto model = saved_model(tied, "none");
    convert(folder_ / "model", folder_ / "published");
    const fs::path weights = folder_ / "published" / "consolidated.pth";
    {
      const io::TensorFile file = io::read_torch_file(weights);
      std::vector<io::TensorView> views;
      std::vector<Tensor> rounded;  // own the memory
      for (const io::TensorView& view : file.tensors()) {
        const Tensor t = to_tensor(view);
        views.push_back(to_view(view.name, rounded.emplace_back(t.is_floating_point() ? t.to(torch::kBFloat16) : t)));
      }
      io::write_torch_file(weights, views);
    }
    convert(folder_ / "published", folder_ / "model");
    const LoadedModel loaded = load_model(folder_ / "model");
    for (const auto& [name, tensor] : named_weights(*model)) {
      const Tensor got = loaded.model->named_parameters()[name];
      EXPECT_EQ(got.scalar_type(), torch::kFloat32);
      EXPECT_TRUE(torch::equal(got, tensor.to(torch::kBFloat16).to(torch::kFloat32))) << name;
    }
  }
}

TEST_F(Weights, ImportedModelsBringTheirTokenizer) {
  const auto model = noisy_model(tiny_config());
  save_model(*model, {{"type", "none"}}, folder_ / "model");
  convert(folder_ / "model", folder_ / "published");
  const int64_t vocabulary = tiny_config().vocab_size;
  const Json tokenizer = {{"type", "sentencepiece"}, {"sha256", "00"}, {"vocabulary", vocabulary}};
  ConvertOptions options;
  options.tokenizer = {.description = tokenizer, .files = {{"tokenizer.model", "content"}}};
  convert(folder_ / "published", folder_ / "model", options);
  EXPECT_EQ(load_model(folder_ / "model").tokenizer["sha256"], "00");
  EXPECT_EQ(read_file(folder_ / "model" / "tokenizer.model"), "content");
  options.tokenizer->description["vocabulary"] = vocabulary + 1;
  const std::string message = error_of([&] { convert(folder_ / "published", folder_ / "model", options); });
  EXPECT_NE(message.find(fmt::format("{} tokens", vocabulary + 1)), std::string::npos) << message;
}

TEST_F(Weights, EveryMisfitIsListed) {
  const auto model = noisy_model(tiny_config());
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : named_weights(*model))
    if (name != "layers.0.mega.beta") views.push_back(to_view(name, tensor));
  const Tensor wrong = torch::zeros({3});
  views.push_back(to_view("layers.7.mega.beta", wrong));
  for (io::TensorView& view : views)
    if (view.name == "layers.1.nffn.alpha") view = to_view(view.name, wrong);
  io::write_safetensors(folder_ / "bad.safetensors", views);
  const std::string message =
      error_of([&] { load_weights(*model, io::read_safetensors(folder_ / "bad.safetensors")); });
  EXPECT_NE(message.find("missing layers.0.mega.beta [2, 8]"), std::string::npos) << message;
  EXPECT_NE(message.find("surplus layers.7.mega.beta [3]"), std::string::npos) << message;
  EXPECT_NE(message.find("layers.1.nffn.alpha: expected shape [16], got [3]"), std::string::npos) << message;
}

TEST_F(Weights, MissingExtraRenamedReshapedAndRetypedAreListedExactly) {
  auto config = tiny_config();
  config.share_emb = true;
  const auto model = noisy_model(config);
  const Tensor wrong = torch::zeros({3}), integers = torch::zeros({16}, torch::kInt32),
               other = model->output().weight.detach() + 1;
  std::vector<io::TensorView> views = {to_view("extra", wrong), to_view("output.output.weight", other)};
  for (const auto& [name, tensor] : named_weights(*model)) {
    if (name == "layers.0.mega.beta") continue;
    views.push_back(to_view(name, name == "layers.1.nffn.alpha" ? wrong : tensor));
    if (name == "layers.0.mega.gamma") views.back().name = "layers.0.mega.gama";
    if (name == "layers.0.nffn.alpha") views.back() = to_view(name, integers);
  }
  io::write_safetensors(folder_ / "bad.safetensors", views);
  const std::string message =
      error_of([&] { load_weights(*model, io::read_safetensors(folder_ / "bad.safetensors")); });
  std::vector<std::string> lines;
  std::istringstream text(message);
  for (std::string line; std::getline(text, line);) lines.push_back(line);
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0], "[weights] the tensors do not fit the configuration:");
  const std::set<std::string> expected = {"  missing layers.0.mega.gamma [2, 8]",
                                          "  missing layers.0.mega.beta [2, 8]",
                                          "  layers.0.nffn.alpha: expected floating-point numbers, got I32",
                                          "  layers.1.nffn.alpha: expected shape [16], got [3]",
                                          "  surplus extra [3]",
                                          "  surplus layers.0.mega.gama [2, 8]",
                                          "  share_emb is on, but output.output.weight differs from embed.weight"};
  EXPECT_EQ(std::set<std::string>(lines.begin() + 1, lines.end()), expected) << message;
  EXPECT_EQ(lines.size(), expected.size() + 1) << message;
}

TEST_F(Weights, ATiedPairThatDiffersIsRefused) {
  auto config = tiny_config();
  config.share_emb = true;
  const auto model = noisy_model(config);
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : named_weights(*model)) views.push_back(to_view(name, tensor));
  const Tensor other = model->output().weight.detach() + 1;
  views.push_back(to_view("output.output.weight", other));
  io::write_safetensors(folder_ / "bad.safetensors", views);
  const auto load = [&] { load_weights(*model, io::read_safetensors(folder_ / "bad.safetensors")); };
  EXPECT_NE(error_of(load).find("share_emb"), std::string::npos);
}

TEST_F(Weights, AFolderThatIsNoModelSaysSo) {
  EXPECT_NE(error_of([&] { load_model(folder_ / "nothing"); }).find("no such model folder"), std::string::npos);
  write_file_atomically(folder_ / "model" / "config.json", R"({"model": {}})");
  EXPECT_NE(error_of([&] { load_model(folder_ / "model"); }).find("megalodon convert"), std::string::npos);
  write_file_atomically(
      folder_ / "model" / "config.json",
      R"({"format": "megalodon.cpp", "format_version": 1, "model_type": "megalodon", "modeldim": 3})");
  EXPECT_NE(error_of([&] { load_model(folder_ / "model"); }).find("model_dim"), std::string::npos);
}

}  // namespace
}  // namespace megalodon
