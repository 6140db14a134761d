// What holds of every architecture of models.def: gradients, streams, documents, recomputation, precisions, files and
// counts, and that it learns. tests/slow/trace_test.cc compares its losses with those recorded, infer/engine_test.cc
// has it read beside others.
#include "models/architecture_testing.h"

#include <cmath>
#include <random>
#include <set>

#include "base/check.h"
#include "base/temporary_folder.h"
#include "models/testing.h"
#include "models/weights.h"
#include "ops/adamw/adamw.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::Architecture;
using testing::between_neighbours;
using testing::close;
using testing::gradients_of;
using testing::in_calls;
using testing::mean_loss;
using testing::noisy_model;
using testing::one_pass;
using testing::random_split;
using testing::random_tokens;
using testing::results_of_stretches;
using testing::tiny_presets;

INSTANTIATE_TEST_SUITE_P(Presets, Architecture, ::testing::ValuesIn(tiny_presets()), testing::name_of_preset);

TEST(Registry, EveryArchitectureHasATinyPreset) {
  std::set<std::string> tested;
  for (const Preset& preset : tiny_presets()) tested.insert(preset.config->architecture());
  for (const std::string& architecture : architectures())
    EXPECT_TRUE(tested.contains(architecture)) << architecture << " has no preset that the tests below could run on";
}

/// Around the ends of chunks and kernels, which in the small models are 8 or 16 steps long.
constexpr int64_t kLengths[] = {1, 15, 16, 17, 40};
constexpr int64_t kLength = 40;

/// Documents that differ by row, of one token and of more than a chunk among them.
Tensor some_starts() {
  Tensor starts = torch::zeros({3, kLength}, torch::kBool);
  starts[0][5] = true, starts[0][6] = true, starts[1][20] = true, starts[2][0] = true, starts[2][39] = true;
  return starts;
}

/// The same, with that probability of all dropout sites.
std::unique_ptr<Model> with_dropout(const ModelConfig& config, double probability) {
  const auto copy = config.clone();
  config::Tree fields = fields_of(config);
  for (auto& [name, value] : fields.items())
    if (name.ends_with("dropout")) value = probability;
  config::read(*copy, fields, {}, "test");
  return noisy_model(*copy);
}

TEST_P(Architecture, EveryParameterIsTrainedAndInitIsAFunctionOfTheSeed) {
  const auto a = config().build(), b = config().build(), c = config().build();
  a->init_weights(5), b->init_weights(5), c->init_weights(6);
  mean_loss(*a, 20).backward();
  bool differs = false;
  for (const auto& [name, parameter] : a->named_parameters().pairs()) {
    EXPECT_TRUE(parameter.isfinite().all().item<bool>()) << name;
    EXPECT_TRUE(torch::equal(parameter, b->named_parameters()[name])) << name;
    ASSERT_TRUE(parameter.grad().defined()) << name;
    EXPECT_TRUE(parameter.grad().isfinite().all().item<bool>()) << name;
    EXPECT_GT(parameter.grad().abs().max().item<double>(), 0) << name;
    differs |= !torch::equal(parameter, c->named_parameters()[name]);
  }
  EXPECT_TRUE(differs);
}

/// In float64, along a random direction of each parameter.
TEST_P(Architecture, GradientsMatchFiniteDifferences) {
  const auto model = noisy_model(config());
  model->to(torch::kFloat64);
  for (const int64_t length : {1, 16, 40}) {
    const auto gradients = gradients_of(mean_loss(*model, length), *model);
    torch::NoGradGuard no_grad;
    const double step = 1e-6;
    const auto parameters = model->named_parameters().pairs();
    for (size_t i = 0; i < parameters.size(); ++i) {
      Tensor parameter = parameters[i].second;
      const Tensor direction = torch::randn_like(parameter);
      parameter.add_(direction, step);
      const double above = mean_loss(*model, length).item<double>();
      parameter.sub_(direction, 2 * step);
      const double below = mean_loss(*model, length).item<double>();
      parameter.add_(direction, step);
      EXPECT_NEAR((gradients[i] * direction).sum().item<double>(), (above - below) / (2 * step),
                  1e-8 + 1e-5 * gradients[i].norm().item<double>())
          << parameters[i].first << ", length " << length;
    }
  }
}

TEST_P(Architecture, GradientsOfBothPrecisionsAreThoseOfFloat64) {
  const auto exact = noisy_model(config()), model = noisy_model(config());
  exact->to(torch::kFloat64);
  const auto names = model->named_parameters().keys();
  const auto norm = [](const Tensor& t) { return t.norm().item<double>(); };
  for (const int64_t length : kLengths) {
    const auto expected = gradients_of(mean_loss(*exact, length), *exact);
    double largest = 0;
    for (const Tensor& gradient : expected) largest = std::max(largest, gradient.abs().max().item<double>());
    model->set_precision(nn::Precision::kFloat32);
    auto got = gradients_of(mean_loss(*model, length), *model);
    for (size_t i = 0; i < names.size(); ++i)  // the tolerances of the golden tests, of norms
      EXPECT_LE(norm(got[i] - expected[i]),
                5e-5 * norm(expected[i]) + std::ldexp(largest, -23) * std::sqrt(static_cast<double>(got[i].numel())))
          << names[i] << ", length " << length;
    model->set_precision(nn::Precision::kBfloat16);
    got = gradients_of(mean_loss(*model, length), *model);
    double error = 0, size = 0;
    for (size_t i = 0; i < names.size(); ++i)
      error = std::hypot(error, norm(got[i] - expected[i])), size = std::hypot(size, norm(expected[i]));
    EXPECT_LE(error, 0.1 * size) << "in bfloat16, length " << length;  // rounding leads to the other side of a relu
  }
}

TEST_P(Architecture, Bfloat16IsCloseToFloat32) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config());
  const ModelInput input{random_tokens(config(), 2, kLength), {}};
  NoCarry none;
  const Tensor exact = one_pass(*model, input), hidden = model->hidden(input, none);
  model->set_precision(nn::Precision::kBfloat16);
  EXPECT_TRUE(close(one_pass(*model, input), exact, 2e-2));
  EXPECT_FALSE(torch::equal(model->hidden(input, none), hidden)) << "the layers compute in float32";
}

TEST_P(Architecture, RandomSplitsEqualOnePassWithAndWithoutDocuments) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config());
  const Tensor tokens = random_tokens(config(), 3, kLength);
  std::mt19937_64 rng(3);
  for (const Tensor& starts : {Tensor(), some_starts()}) {
    const Tensor expected = one_pass(*model, {tokens, starts});
    for (int i = 0; i < 50; ++i) {
      StreamCarry carry;
      const auto calls = random_split(kLength, rng);
      ASSERT_TRUE(close(in_calls(*model, {tokens, starts}, calls, carry), expected, 1e-5))
          << ::testing::PrintToString(calls);
    }
  }
}

TEST_P(Architecture, StatefulTrainingComputesWhatStreamsDo) {
  const auto model = with_dropout(config(), 0);
  const ModelInput input{random_tokens(config(), 3, kLength), some_starts()};
  StreamCarry trained, streamed;
  model->train();
  const Tensor logits = in_calls(*model, input, {10, 15, 15}, trained);
  EXPECT_TRUE(logits.requires_grad());
  model->eval();
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(close(logits, in_calls(*model, input, {10, 15, 15}, streamed), 1e-5));
  const auto got = trained.tensors(), expected = streamed.tensors();
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i].second, expected[i].second, 1e-5)) << got[i].first;
}

TEST_P(Architecture, ADocumentNeverSeesItsNeighbours) {
  const auto model = noisy_model(config());
  for (const auto precision : {nn::Precision::kFloat32, nn::Precision::kBfloat16}) {
    model->set_precision(precision);
    for (const auto& [begin, end] :
         {std::pair<int64_t, int64_t>{1, 2}, {7, 8}, {7, 17}, {8, 16}, {9, kLength}, {15, 33}, {16, 17}, {17, 35}}) {
      const auto a = between_neighbours(*model, config(), begin, end, kLength, 100);
      const auto b = between_neighbours(*model, config(), begin, end, kLength, 200);
      for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(torch::equal(a[i], b[i])) << begin << " " << end << " " << i;
      const Tensor alone = one_pass(*model, {random_tokens(config(), 1, kLength).slice(1, begin, end), {}});
      // Not bitwise: whether a product's result is rounded to bfloat16 depends on its size.
      EXPECT_TRUE(close(a[0], alone, precision == nn::Precision::kFloat32 ? 1e-5 : 2e-2)) << begin << " " << end;
    }
  }
}

TEST_P(Architecture, DropoutFollowsItsKeyAndIsOffInEvaluation) {
  torch::NoGradGuard no_grad;
  const auto plain = with_dropout(config(), 0), model = with_dropout(config(), 0.3);
  const ModelInput input{random_tokens(config(), 1, 20), {}};
  EXPECT_TRUE(torch::equal(one_pass(*model, input), one_pass(*plain, input)));
  model->train();
  model->set_dropout_key(1);
  const Tensor first = one_pass(*model, input);
  EXPECT_TRUE(torch::equal(first, one_pass(*model, input)));
  model->set_dropout_key(2);
  EXPECT_FALSE(torch::equal(first, one_pass(*model, input)));
}

TEST_P(Architecture, RecomputationChangesNothing) {
  const auto model = with_dropout(config(), 0.2);
  model->train();
  std::vector<Tensor> results[2];
  for (const bool on : {false, true}) {
    model->set_checkpointing(on);
    results[on] = results_of_stretches(*model, 39, some_starts().narrow(0, 0, 2));
    model->set_dropout_key(5);
    const Tensor loss = mean_loss(*model, kLength);  // its carry is gone before the backward pass
    results[on].push_back(loss.detach());
    for (const Tensor& gradient : gradients_of(loss, *model)) results[on].push_back(gradient);
  }
  ASSERT_EQ(results[0].size(), results[1].size());
  for (size_t i = 0; i < results[0].size(); ++i) EXPECT_TRUE(torch::equal(results[0][i], results[1][i])) << i;
}

TEST(ReplayCarry, AStateThatWantsAGradientIsRefused) {
  EXPECT_THROW(ReplayCarry({torch::ones({1}).requires_grad_()}), Error);
}

TEST_P(Architecture, WrittenWeightsAreNoticedBetweenSteps) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config()), fresh = noisy_model(config(), 2);
  const ModelInput input{random_tokens(config(), 1, 3), {}};
  StreamCarry before, after, expected;
  model->logits(input, before);
  for (const auto& [name, weight] : named_weights(*fresh)) model->named_parameters()[name].copy_(weight);
  EXPECT_TRUE(torch::equal(model->logits(input, after), fresh->logits(input, expected)));
}

/// Of more and of fewer rows than products of few rows are for.
TEST_P(Architecture, FixedMatricesGiveWhatTheirNumbersGive) {
  torch::NoGradGuard no_grad;
  const ModelInput input{random_tokens(config(), 2, kLength), {}};
  for (const auto type :
       {ops::FixedType::kFloat32, ops::FixedType::kBfloat16, ops::FixedType::kQ8, ops::FixedType::kQ4}) {
    const auto fixed = noisy_model(config()), plain = noisy_model(config());
    for (nn::Linear* linear : plain->linears())
      linear->weight = ops::restore_matrix(ops::fix_matrix(linear->weight.detach(), type));
    fixed->fix(type);
    const Tensor expected = one_pass(*plain, input);
    const double tolerance = type == ops::FixedType::kFloat32 ? 1e-5 : 2e-2;  // inputs are rounded too
    StreamCarry carry;
    EXPECT_TRUE(close(one_pass(*fixed, input), expected, tolerance)) << ops::name_of(type);
    EXPECT_TRUE(close(in_calls(*fixed, input, {3, 30, 7}, carry), expected, tolerance)) << ops::name_of(type);
  }
}

TEST_P(Architecture, AModelFolderHoldsAllOfIt) {
  torch::NoGradGuard no_grad;
  const TemporaryFolder folder;
  const auto model = noisy_model(config());
  save_model(*model, {{"type", "bytes"}}, folder.path());
  const LoadedModel loaded = load_model(folder.path());
  EXPECT_EQ(config_json(loaded.model->config(), {}), config_json(config(), {}));
  const auto expected = named_weights(*model), got = named_weights(*loaded.model);
  ASSERT_EQ(got.size(), expected.size());
  for (size_t i = 0; i < got.size(); ++i) {
    EXPECT_EQ(got[i].first, expected[i].first);
    EXPECT_TRUE(torch::equal(got[i].second, expected[i].second)) << got[i].first;
  }
  const ModelInput input{random_tokens(config(), 2, kLength), {}};
  EXPECT_TRUE(torch::equal(one_pass(*loaded.model, input), one_pass(*model, input)));
}

TEST_P(Architecture, ACarryComesBackFromAFile) {
  torch::NoGradGuard no_grad;
  const TemporaryFolder folder;
  const auto model = noisy_model(config());
  const Tensor tokens = random_tokens(config(), 2, kLength);
  for (const int64_t first : {5, 16}) {  // an open chunk, and none
    StreamCarry carry, loaded;
    model->logits({tokens.narrow(1, 0, first), {}}, carry);
    const auto tensors = carry.tensors();
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back(to_view(name, tensor));
    io::write_safetensors(folder / "carry.safetensors", views);
    loaded.load(io::read_safetensors(folder / "carry.safetensors"));
    const ModelInput rest{tokens.narrow(1, first, kLength - first), {}};
    EXPECT_TRUE(torch::equal(model->logits(rest, carry), model->logits(rest, loaded)));
    views.erase(views.begin());
    io::write_safetensors(folder / "carry.safetensors", views);
    EXPECT_THROW(loaded.load(io::read_safetensors(folder / "carry.safetensors")), Error);
  }
}

TEST_P(Architecture, InfoCountsParametersAndTheStateOfAStream) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config());
  const ModelInfo info = model->info();
  int64_t parameters = 0, in_matrices = 0;
  for (const auto& [name, weight] : named_weights(*model)) parameters += weight.numel();
  for (const nn::Linear* linear : model->linears()) in_matrices += linear->weight.numel();
  EXPECT_EQ(info.parameters, parameters);
  EXPECT_EQ(info.matrix_parameters, in_matrices);
  const Tensor tokens = random_tokens(config(), 1, kLength);
  StreamCarry carry;
  int64_t most = 0;
  for (int64_t read = 1; read <= kLength; ++read) {
    model->hidden({tokens.narrow(1, read - 1, 1), {}}, carry);
    most = std::max(most, carry.bytes());
    if (info.state_bytes_a_token > 0 || (info.chunk_size > 0 && read % info.chunk_size == 0)) {
      EXPECT_EQ(carry.bytes(), info.state_bytes_fixed + read * info.state_bytes_a_token) << read;
    }
  }
  if (info.state_bytes_a_token == 0) {
    EXPECT_EQ(most, info.state_bytes_full);
  }
}

TEST_P(Architecture, OneBatchIsLearnt) {
  const auto model = config().build();
  model->init_weights(1);
  const auto parameters = model->parameters();
  std::vector<ops::AdamWTensors> updates;
  for (const Tensor& parameter : parameters)
    updates.push_back({parameter, {}, torch::zeros_like(parameter), torch::zeros_like(parameter)});
  double first = 0, last = 0;
  for (int64_t step = 1; step <= 100 && last >= 0.1 * first; ++step) {
    const Tensor loss = mean_loss(*model, 20);
    last = loss.item<double>();
    if (step == 1) first = last;
    model->zero_grad();
    loss.backward();
    for (size_t i = 0; i < updates.size(); ++i) updates[i].gradient = parameters[i].grad();
    torch::NoGradGuard no_grad;
    ops::adamw(updates, {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .step = step});
  }
  EXPECT_LT(last, 0.1 * first);
}

}  // namespace
}  // namespace megalodon
