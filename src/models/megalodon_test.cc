#include "models/megalodon.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "base/check.h"
#include "models/testing.h"
#include "models/weights.h"
#include "nn/cema.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::between_neighbours;
using testing::close;
using testing::document_results;
using testing::in_calls;
using testing::noisy_model;
using testing::one_pass;
using testing::random_split;
using testing::random_tokens;
using testing::results_of_stretches;
using testing::tiny_config;

TEST(Megalodon, PublishedParameterCounts) {
  const std::map<std::string, int64_t> expected = {
      {"megalodon-tiny", 34720},     {"byte11m", 11359104},      {"mega200M", 220627968},  {"mega1.3B", 1342832640},
      {"mega1.3B_pg19", 1327628288}, {"mega7.1B", 7117381632},   {"mega7.3B", 7385817088}, {"paper7B", 7385817088},
      {"megalodon-11M", 11229696},   {"megalodon-45M", 45665472}};
  const auto of_megalodon = [](const Preset& preset) { return preset.config->architecture() == "megalodon"; };
  ASSERT_EQ(std::count_if(presets().begin(), presets().end(), of_megalodon), static_cast<int64_t>(expected.size()));
  for (const auto& [name, parameters] : expected)
    EXPECT_EQ(make_preset(name)->build()->info().parameters, parameters) << name;
  EXPECT_EQ(preset_names().size(), presets().size());
  EXPECT_THROW(make_preset("mega8B"), UsageError);
}

/// 1, 2, 3, 3, 3 keys in a window of three; a chunk of two leaves it 1, 2, 1, 2, 1.
TEST(ModelInfo, CountsTheKeysOfAWindow) {
  ModelInfo info;
  info.window = 3, info.flops_per_key = 10;
  EXPECT_DOUBLE_EQ(info.mean_forward_flops(5), 10 * 12 / 5.0);
  info.chunk_size = 2;
  EXPECT_DOUBLE_EQ(info.mean_forward_flops(5), 10 * 7 / 5.0);
}

/// A token sees 1, 2, … chunk_size keys, again and again.
TEST(ModelInfo, CountsTheKeysThatAreSeen) {
  ModelInfo info;
  info.chunk_size = 4, info.flops = 100, info.flops_per_key = 10;
  EXPECT_EQ(info.mean_forward_flops(1), 110);
  EXPECT_EQ(info.mean_forward_flops(4), 125);
  EXPECT_EQ(info.mean_forward_flops(8), 125);
  EXPECT_EQ(info.mean_forward_flops(6), 100 + 10 * (10 + 3) / 6.0);
  EXPECT_EQ(info.mean_forward_flops(0), 0);
  info.chunk_size = 0;
  EXPECT_EQ(info.mean_forward_flops(5), 130);
}

TEST(Megalodon, AThousandRandomSplitsEqualOnePass) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const Tensor tokens = random_tokens(config, 2, 4 * config.chunk_size + 5);
  const Tensor expected = one_pass(*model, {tokens, {}});
  std::mt19937_64 rng(3);
  for (int i = 0; i < 1000; ++i) {
    StreamCarry carry;
    const auto calls = random_split(tokens.size(1), rng);
    ASSERT_TRUE(close(in_calls(*model, {tokens, {}}, calls, carry), expected, 1e-5)) << ::testing::PrintToString(calls);
  }
}

TEST(Megalodon, SplitsEqualOnePassWithDocumentStartsThatDifferByRow) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const int64_t length = 37;
  const Tensor tokens = random_tokens(config, 3, length);
  Tensor starts = torch::zeros({3, length}, torch::kBool);
  starts[0][5] = true, starts[0][6] = true, starts[1][20] = true, starts[2][0] = true, starts[2][36] = true;
  const Tensor expected = one_pass(*model, {tokens, starts});
  std::mt19937_64 rng(4);
  for (int i = 0; i < 200; ++i) {
    StreamCarry carry;
    const auto calls = random_split(length, rng);
    ASSERT_TRUE(close(in_calls(*model, {tokens, starts}, calls, carry), expected, 1e-5))
        << ::testing::PrintToString(calls);
  }
}

TEST(Megalodon, PackedDocumentsEqualEachAlone) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const Tensor tokens = random_tokens(config, 1, 30);
  Tensor starts = torch::zeros({1, 30}, torch::kBool);
  starts[0][11] = true, starts[0][12] = true;
  const Tensor packed = one_pass(*model, {tokens, starts});
  for (const auto& [begin, end] : {std::pair{0, 11}, {11, 12}, {12, 30}})
    EXPECT_TRUE(close(packed.slice(1, begin, end), one_pass(*model, {tokens.slice(1, begin, end), {}}), 1e-6)) << begin;
}

TEST(Megalodon, ADocumentNeverSeesItsNeighbours) {
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const int64_t C = config.chunk_size, length = 3 * C + 3;
  for (const auto precision : {nn::Precision::kFloat32, nn::Precision::kBfloat16}) {
    model->set_precision(precision);
    // Every place of the edge in and around a chunk; a document of one token, of less and more than a chunk, to the
    // end.
    for (int64_t begin = 1; begin <= 2 * C + 1; ++begin)
      for (const int64_t size : {int64_t{1}, C - 1, C + 2, length}) {
        const int64_t end = std::min(begin + size, length);
        const auto a = between_neighbours(*model, config, begin, end, length, 100);
        const auto b = between_neighbours(*model, config, begin, end, length, 200);
        for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << begin << " " << end << " " << i;
      }
  }
}

TEST(Megalodon, PackedDocumentsGiveTheLogitsOfEachAloneInBfloat16) {
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  model->set_precision(nn::Precision::kBfloat16);
  const int64_t C = config.chunk_size, length = 3 * C;
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{3, C + 5}, {C, 2 * C}, {C - 1, C}, {C + 1, length}}) {
    const Tensor packed = between_neighbours(*model, config, begin, end, length, 100)[0];
    const Tensor text = random_tokens(config, 1, length).slice(1, begin, end);
    // Not bitwise: whether a product's result is rounded to bfloat16 depends on its size.
    EXPECT_TRUE(close(packed, document_results(*model, {text, {}}, 0, end - begin)[0], 2e-2)) << begin;
  }
}

/// The gradients of the mean loss, by parameter.
std::vector<Tensor> loss_gradients(Model& model, const Tensor& tokens, const Tensor& targets) {
  NoCarry none;
  model.zero_grad();
  model.nll({tokens, {}}, targets, none).mean().backward();
  std::vector<Tensor> gradients;
  for (const Tensor& parameter : model.parameters()) gradients.push_back(parameter.grad().to(torch::kFloat64));
  return gradients;
}

/// Calls compare(name, float64 gradient, gradient in that precision, largest float64 gradient of the model) for all
/// parameters, at lengths around chunks.
template <class Compare>
void compare_gradients(nn::Precision precision, const Compare& compare) {
  const auto config = tiny_config();
  const auto exact = noisy_model(config), model = noisy_model(config);
  exact->to(torch::kFloat64);
  model->set_precision(precision);
  const int64_t C = config.chunk_size;
  for (const int64_t length : {int64_t{1}, C - 1, C, C + 1, 3 * C}) {
    SCOPED_TRACE(length);
    const Tensor tokens = random_tokens(config, 2, length), targets = random_tokens(config, 2, length, 8);
    const auto expected = loss_gradients(*exact, tokens, targets), got = loss_gradients(*model, tokens, targets);
    double largest = 0;
    for (const Tensor& gradient : expected) largest = std::max(largest, gradient.abs().max().item<double>());
    const auto names = model->named_parameters().keys();
    for (size_t i = 0; i < names.size(); ++i) compare(names[i], expected[i], got[i], largest);
  }
}

TEST(Megalodon, Float32GradientsMatchFloat64AroundChunks) {
  compare_gradients(nn::Precision::kFloat32, [](const auto& name, const Tensor& exact, const Tensor& got, double all) {
    EXPECT_TRUE(close(got, exact, 5e-5, std::ldexp(all, -23))) << name;  // the tolerances of the golden tests
  });
}

TEST(Megalodon, Bfloat16GradientsPointWhereFloat64GradientsPoint) {
  compare_gradients(nn::Precision::kBfloat16, [](const auto& name, const Tensor& exact, const Tensor& got, double all) {
    const double error = (got - exact).norm().item<double>(), size = exact.norm().item<double>();
    EXPECT_LE(error, 0.05 * size + 2e-3 * all * std::sqrt(static_cast<double>(exact.numel()))) << name << " " << size;
  });
}

TEST(Megalodon, GradientsMatchFiniteDifferences) {
  auto config = tiny_config();
  config.num_layers = 1, config.model_dim = 8, config.z_dim = 4, config.value_dim = 8, config.ffn_hidden_dim = 8;
  config.norm_num_groups = 2, config.cema_ndim = 2, config.chunk_size = 4, config.vocab_size = 5;
  const int64_t C = config.chunk_size;
  for (const int64_t length : {int64_t{1}, C - 1, C, C + 1, 3 * C}) {
    const auto model = noisy_model(config);
    model->to(torch::kFloat64);
    const Tensor tokens = random_tokens(config, 1, length), targets = random_tokens(config, 1, length, 8);
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
      const int64_t stride = std::max<int64_t>(1, flat.numel() / 7);  // a sample of each tensor's elements
      for (int64_t i = 0; i < flat.numel(); i += stride) {
        const double x = flat[i].item<double>();
        flat[i] = x + step;
        const double above = loss().item<double>();
        flat[i] = x - step;
        const double below = loss().item<double>();
        flat[i] = x;
        EXPECT_NEAR(gradient[i].item<double>(), (above - below) / (2 * step), 1e-7)
            << name << " " << i << " length " << length;
      }
    }
  }
}

TEST(Megalodon, EveryParameterIsTrainedAndInitIsAFunctionOfTheSeed) {
  const auto config = tiny_config();
  const auto a = config.build(), b = config.build(), c = config.build();
  a->init_weights(5), b->init_weights(5), c->init_weights(6);
  NoCarry none;
  a->nll({random_tokens(config, 2, 20), {}}, random_tokens(config, 2, 20, 9), none).mean().backward();
  bool differs = false;
  for (const auto& [name, parameter] : a->named_parameters().pairs()) {
    EXPECT_TRUE(torch::equal(parameter, b->named_parameters()[name])) << name;
    EXPECT_TRUE(parameter.isfinite().all().item<bool>()) << name;
    EXPECT_TRUE(parameter.grad().defined() && parameter.grad().isfinite().all().item<bool>()) << name;
    // q and k start out equal to z up to a positive factor, gamma and beta included: all but nothing has a gradient.
    EXPECT_GT(parameter.grad().abs().max().item<double>(), 0) << name;
    differs |= !torch::equal(parameter, c->named_parameters()[name]);
  }
  EXPECT_TRUE(differs);
}

TEST(Megalodon, CheckpointingChangesNothing) {
  auto config = tiny_config();
  config.dropout = config.hidden_dropout = config.attention_dropout = 0.2;
  const auto model = noisy_model(config);
  model->train();
  model->set_dropout_key(77);
  const Tensor tokens = random_tokens(config, 2, 21), targets = random_tokens(config, 2, 21, 9);
  std::vector<Tensor> gradients[2];
  Tensor losses[2];
  for (const bool on : {false, true}) {
    model->set_checkpointing(on);
    model->zero_grad();
    {
      NoCarry none;  // gone before the backward pass
      losses[on] = model->nll({tokens, {}}, targets, none).mean();
    }
    losses[on].backward();
    for (const Tensor& parameter : model->parameters()) gradients[on].push_back(parameter.grad().clone());
  }
  EXPECT_TRUE(torch::equal(losses[0], losses[1]));
  for (size_t i = 0; i < gradients[0].size(); ++i) EXPECT_TRUE(torch::equal(gradients[0][i], gradients[1][i])) << i;
}

TEST(Megalodon, CheckpointingKeepsTheCarry) {
  auto config = tiny_config();
  config.dropout = config.hidden_dropout = config.attention_dropout = 0.2;
  const auto model = noisy_model(config);
  model->train();
  Tensor starts = torch::zeros({2, 39}, torch::kBool);
  starts[0][13] = true, starts[1][20] = true;
  std::vector<Tensor> results[2];
  for (const bool on : {false, true}) {
    model->set_checkpointing(on);
    results[on] = results_of_stretches(*model, 39, starts);
  }
  ASSERT_EQ(results[0].size(), results[1].size());
  for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(torch::equal(results[0][i], results[1][i])) << i;
  State state = {torch::ones({1}).requires_grad_()};
  EXPECT_THROW(ReplayCarry{state}, Error);
}

TEST(Megalodon, ACarryComesBackFromAFile) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  const Tensor tokens = random_tokens(config, 2, 30);
  const fs::path path = fs::path(::testing::TempDir()) / "carry.safetensors";
  for (const int64_t first : {int64_t{5}, config.chunk_size}) {  // an open chunk, and none
    StreamCarry carry, loaded;
    model->logits({tokens.narrow(1, 0, first), {}}, carry);
    const auto tensors = carry.tensors();
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back(to_view(name, tensor));
    io::write_safetensors(path, views);
    loaded.load(io::read_safetensors(path));
    const ModelInput rest{tokens.narrow(1, first, 30 - first), {}};
    EXPECT_TRUE(torch::equal(model->logits(rest, carry), model->logits(rest, loaded)));
    views.erase(views.begin() + 1);
    io::write_safetensors(path, views);
    EXPECT_THROW(loaded.load(io::read_safetensors(path)), Error);
  }
}

TEST(Megalodon, DropoutFollowsItsKeyAndIsOffInEvaluation) {
  auto config = tiny_config();
  const auto plain = noisy_model(config);
  config.dropout = config.hidden_dropout = config.attention_dropout = 0.3;
  const auto model = noisy_model(config);
  const ModelInput input{random_tokens(config, 1, 20), {}};
  EXPECT_TRUE(torch::equal(one_pass(*model, input), one_pass(*plain, input)));
  model->train();
  model->set_dropout_key(1);
  const Tensor first = one_pass(*model, input);
  EXPECT_TRUE(torch::equal(first, one_pass(*model, input)));
  model->set_dropout_key(2);
  EXPECT_FALSE(torch::equal(first, one_pass(*model, input)));
}

TEST(Megalodon, StreamStateHasAFixedSizeAndFullPrecision) {
  torch::NoGradGuard no_grad;
  const auto config = tiny_config();
  const auto model = noisy_model(config);
  StreamCarry carry;
  model->hidden({random_tokens(config, 1, config.chunk_size), {}}, carry);
  EXPECT_EQ(carry.bytes(), model->info().state_bytes_fixed);
  for (int i = 0; i < 5; ++i) model->hidden({random_tokens(config, 1, 3 * config.chunk_size), {}}, carry);
  EXPECT_EQ(carry.bytes(), model->info().state_bytes_fixed);
  model->hidden({random_tokens(config, 1, config.chunk_size - 1), {}}, carry);
  EXPECT_EQ(carry.bytes(), model->info().state_bytes_full);
  // Statistics rounded to the compute dtype stop moving after some 10^7 steps.
  EXPECT_EQ(carry.slots()[0][1].scalar_type(), torch::kFloat64);
}

TEST(Cema, SaturatedDecayHasNoNan) {
  const auto options = torch::TensorOptions().requires_grad(true);
  for (const double logit : {-100.0, -20.0, 0.0, 20.0, 100.0}) {
    const Tensor alpha = torch::full({3, 2, 1}, logit, options), delta = torch::full({3, 2, 1}, logit, options);
    const Tensor theta = torch::full({3, 1, 1}, 0.3, options), gamma = torch::ones({3, 2, 2}, options);
    const auto cema = nn::cema_coefficients(alpha, delta, theta, gamma);
    EXPECT_TRUE(torch::view_as_real(cema.q_DN).isfinite().all().item<bool>()) << logit;
    EXPECT_LE(cema.q_DN.abs().max().item<double>(), 1.0);
    (torch::view_as_real(cema.q_DN).sum() + torch::view_as_real(cema.c_DN).sum()).backward();
    for (const Tensor& x : {alpha, delta, theta, gamma}) EXPECT_TRUE(x.grad().isfinite().all().item<bool>()) << logit;
  }
}

TEST(MegalodonConfig, ContradictionsAreNamed) {
  const auto refuses = [](const std::string& part, const std::function<void(MegalodonConfig&)>& change) {
    auto config = tiny_config();
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "accepted a bad " << part;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refuses("z_dim", [](auto& c) { c.z_dim = 9; });
  refuses("z_dim", [](auto& c) { c.z_dim = 6; });  // 3 a head: odd
  refuses("value_dim", [](auto& c) { c.value_dim = 25; });
  refuses("norm_num_groups", [](auto& c) { c.norm_num_groups = 3; });
  refuses("chunk_size", [](auto& c) { c.chunk_size = 0; });
  refuses("num_layers", [](auto& c) { c.num_layers = -1; });
  refuses("model_dim", [](auto& c) { c.model_dim = int64_t{1} << 32; });
  refuses("vocab_size", [](auto& c) { c.vocab_size = INT64_MAX; });
  refuses("output_size", [](auto& c) { c.output_size = INT64_MAX; });
  refuses("dropout", [](auto& c) { c.dropout = 1; });
  refuses("norm_eps", [](auto& c) { c.norm_eps = 0; });
  refuses("init_mode", [](auto& c) { c.init_mode = "hee"; });
  refuses("share_emb", [](auto& c) { c.share_emb = true, c.output_size = 5; });
}

}  // namespace
}  // namespace megalodon
