// Models on a GPU: the same numbers as on the CPU, for whatever a model does. Passes over where there is no GPU.
#include <gtest/gtest.h>
#include <torch/cuda.h>

#include <array>
#include <cstdlib>
#include <functional>

#include "base/temporary_folder.h"
#include "infer/engine.h"
#include "infer/generate.h"
#include "models/architecture_testing.h"
#include "models/fixed_model.h"
#include "models/testing.h"
#include "models/weights.h"
#include "ops/device.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;

class ModelOnGpu : public ::testing::Test {
 protected:
  void SetUp() override {
    if (torch::cuda::is_available() && ops::has_kernels(torch::empty({1}, torch::kCUDA))) return;
    EXPECT_EQ(std::getenv("MEGALODON_NEED_GPU"), nullptr) << "no GPU, or no kernels for it";
    GTEST_SKIP() << "no GPU here";
  }
};

std::unique_ptr<Model> on(torch::Device device, const ModelConfig& config) {
  auto model = testing::noisy_model(config);
  model->to(device);
  return model;
}

ModelInput input(const MegalodonConfig& config, int64_t batch, int64_t length) {
  Tensor starts_BL = torch::zeros({batch, length}, torch::kBool);
  starts_BL[0][length / 3] = starts_BL[batch - 1][length / 2] = true;
  return {testing::random_tokens(config, batch, length), starts_BL};
}

/// Loss and gradients of a training pass.
std::vector<Tensor> gradients(Model& model, const ModelInput& batch, const Tensor& targets_BL) {
  model.train();
  model.set_dropout_key(5);
  NoCarry carry;
  const Tensor loss = model.nll(batch, targets_BL, carry).sum();
  loss.backward();
  std::vector<Tensor> list = {loss.detach()};
  for (const auto& [name, parameter] : named_weights(model)) {
    list.push_back(parameter.grad().clone());
    parameter.mutable_grad() = Tensor();
  }
  return list;
}

void expect_close(const std::vector<Tensor>& got, const std::vector<Tensor>& expected, double tolerance) {
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], tolerance, 1e-6)) << "number " << i;
}

TEST_F(ModelOnGpu, GradientsAreTheCpus) {
  MegalodonConfig config = testing::tiny_config();
  config.dropout = config.hidden_dropout = config.attention_dropout = 0.2;
  const ModelInput batch = input(config, 3, 29);
  const Tensor targets_BL = testing::random_tokens(config, 3, 29, 8);
  const auto cpu = on(torch::kCPU, config), gpu = on(torch::kCUDA, config);
  const auto expected = gradients(*cpu, batch, targets_BL);
  expect_close(gradients(*gpu, batch, targets_BL), expected, 2e-4);
  gpu->set_checkpointing(true);
  expect_close(gradients(*gpu, batch, targets_BL), expected, 2e-4);
}

TEST_F(ModelOnGpu, GradientsInBfloat16AreNear) {
  const MegalodonConfig config = testing::tiny_config();
  const ModelInput batch = input(config, 3, 29);
  const Tensor targets_BL = testing::random_tokens(config, 3, 29, 8);
  const auto cpu = on(torch::kCPU, config), gpu = on(torch::kCUDA, config);
  gpu->set_precision(nn::Precision::kBfloat16);
  const auto got = gradients(*gpu, batch, targets_BL), expected = gradients(*cpu, batch, targets_BL);
  EXPECT_TRUE(close(got[0], expected[0], 1e-2));
  for (size_t i = 1; i < got.size(); ++i) {
    const Tensor e = expected[i].to(torch::kFloat64), g = got[i].to(torch::kCPU, torch::kFloat64);
    EXPECT_LE((g - e).norm().item<double>(), 0.1 * e.norm().item<double>() + 1e-3) << "number " << i;
  }
}

TEST_F(ModelOnGpu, AnySplitOfAStreamIsOnePass) {
  const MegalodonConfig config = testing::tiny_config();
  const ModelInput all = input(config, 2, 61);
  torch::NoGradGuard no_grad;
  const auto cpu = on(torch::kCPU, config);
  NoCarry none;
  const Tensor expected_BLV = cpu->logits(all, none);
  for (const auto precision : {nn::Precision::kFloat32, nn::Precision::kBfloat16}) {
    const auto gpu = on(torch::kCUDA, config);
    gpu->set_precision(precision);
    const Tensor whole_BLV = gpu->logits(all, none);
    EXPECT_TRUE(close(whole_BLV, expected_BLV, precision == nn::Precision::kFloat32 ? 1e-4 : 5e-2));
    for (const std::vector<int64_t>& calls : {std::vector<int64_t>{1, 7, 8, 9, 1, 1, 34}, {20, 20, 21}, {60, 1}}) {
      StreamCarry carry;
      std::vector<Tensor> pieces;
      int64_t at = 0;
      for (const int64_t length : calls) {
        pieces.push_back(
            gpu->logits({all.tokens_BL.narrow(1, at, length), all.starts_BL.narrow(1, at, length)}, carry));
        at += length;
      }
      EXPECT_TRUE(close(torch::cat(pieces, 1), whole_BLV, precision == nn::Precision::kFloat32 ? 1e-4 : 5e-2))
          << calls.size() << " calls";
    }
  }
}

// In one pass, in pieces of more and of fewer rows than products of few rows are for, and token by token.
TEST_F(ModelOnGpu, FixedMatricesAreTheCpus) {
  torch::NoGradGuard no_grad;
  const MegalodonConfig config = testing::tiny_config();
  const TemporaryFolder folder;
  save_model(*on(torch::kCPU, config), {{"type", "bytes"}}, folder.path());
  const ModelInput all{testing::random_tokens(config, 2, 61), {}};
  for (const auto type :
       {ops::FixedType::kFloat32, ops::FixedType::kBfloat16, ops::FixedType::kQ8, ops::FixedType::kQ4}) {
    SCOPED_TRACE(ops::name_of(type));
    const auto cpu = load_fixed_model(folder.path(), type).model,
               gpu = load_fixed_model(folder.path(), type, torch::kCUDA).model;
    EXPECT_TRUE(gpu->device().is_cuda());
    EXPECT_EQ(Engine(*gpu).fingerprint(), Engine(*cpu).fingerprint());
    // Where inputs are rounded, two that are nearly equal may end up a step apart.
    const double tolerance = type == ops::FixedType::kFloat32 ? 1e-4 : 4e-2;
    const Tensor expected_BLV = testing::one_pass(*cpu, all);
    StreamCarry carry;
    EXPECT_TRUE(close(testing::one_pass(*gpu, all), expected_BLV, tolerance));
    EXPECT_TRUE(close(testing::in_calls(*gpu, all, {20, 7, 30, 1, 1, 1, 1}, carry), expected_BLV, tolerance));
  }
}

int recordings = 0;

ops::Recorder counting_recorder(torch::Device device) {
  return [record = ops::recorder_of(device)](const std::function<void()>& work) {
    auto made = record(work);
    ++recordings;
    return made;
  };
}

/// Streams at different places, over the ends of chunks; one leaves, comes back, and a copy of it takes its place.
void expect_that_repeated_steps_change_no_bit(const ModelConfig& config, ops::FixedType type) {
  const Tensor tokens = testing::random_tokens(config, 2, 80);
  const auto model = on(torch::kCUDA, config);
  model->fix(type);
  recordings = 0;
  const Engine plain(*model, {.cache_type = torch::kBFloat16, .recorder = nullptr}),
      repeating(*model, {.cache_type = torch::kBFloat16, .recorder = counting_recorder});
  std::array<Stream, 2> expected, got;
  const std::vector<int64_t> prompt = {3, 1, 4, 1, 5};
  plain.read(expected[1], prompt), repeating.read(got[1], prompt);
  Stream kept_expected, kept_got;
  for (int64_t step = 0; step < 80; ++step) {
    const std::vector<int64_t> next = {tokens[0][step].item<int64_t>(), tokens[1][step].item<int64_t>()};
    const size_t count = step / 20 % 2 == 0 ? 2 : 1;
    const auto advance = [&](const Engine& engine, std::array<Stream, 2>& streams) {
      const std::array<Stream*, 2> batch = {&streams[0], &streams[1]};
      engine.step(std::span(batch).first(count), std::span(next).first(count));
    };
    advance(plain, expected), advance(repeating, got);
    for (size_t i = 0; i < count; ++i)
      ASSERT_TRUE(torch::equal(got[i].logits(), expected[i].logits())) << "step " << step << ", stream " << i;
    if (step == 50) kept_expected = expected[0], kept_got = got[0];
    if (step == 65) expected[0] = kept_expected, got[0] = kept_got;
  }
  const CacheShape cache = model->info().cache;
  const bool grows = cache.slots > 0 && cache.steps == 0;  // and is recorded again with more room
  EXPECT_GE(recordings, 4) << "of two, of one, of two, of one";
  EXPECT_TRUE(grows || recordings == 4) << recordings;
  const NamedTensors all = plain.tensors(kept_expected);
  const NamedTensors same = repeating.tensors(kept_got);
  ASSERT_EQ(same.size(), all.size());
  for (size_t i = 0; i < all.size(); ++i) EXPECT_TRUE(torch::equal(same[i].second, all[i].second)) << all[i].first;
}

TEST_F(ModelOnGpu, RepeatedStepsChangeNoBit) {
  std::vector<Preset> models = testing::tiny_presets();
  models.push_back({"all switches", "", testing::tiny_config().clone()});
  TransformerConfig bounded = testing::tiny_transformer("learned");
  bounded.max_positions = 100;
  models.push_back({"learned positions", "", bounded.clone()});
  models.push_back({"adaptive vocabulary", "", testing::in_bands("s4-tiny")});
  for (const Preset& preset : models) {
    if (!preset.config->build()->info().repeats_steps) continue;
    for (const auto type : {ops::FixedType::kFloat32, ops::FixedType::kQ4}) {
      SCOPED_TRACE(preset.name + ", " + ops::name_of(type));
      expect_that_repeated_steps_change_no_bit(*preset.config, type);
    }
  }
}

TEST_F(ModelOnGpu, WritesTheSameText) {
  const MegalodonConfig config = testing::tiny_config();
  const std::vector<std::vector<int64_t>> prompts = {{1, 2, 3}, {4, 5, 6, 7, 8}};
  EXPECT_EQ(generate_greedy(*on(torch::kCUDA, config), prompts, 40),
            generate_greedy(*on(torch::kCPU, config), prompts, 40));
}

}  // namespace
}  // namespace megalodon
