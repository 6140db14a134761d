// Proofs of classifiers: their equations around a plain encoder, what is refused, and that every architecture learns.
#include "models/classifier.h"

#include <gtest/gtest.h>

#include <random>

#include "models/encoder_testing.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::close;
using testing::Encoders;
using testing::padding_of;
using testing::with_noise;

/// y_t = x_t + x_(t+1), so that there is something to see that a mean does not.
class NextAdded final : public Encoder {
 public:
  Tensor forward(const Tensor& x_BLD, const Tensor& padding_BL, uint64_t) override {
    const Tensor x = zero_padding(x_BLD, padding_BL);
    return zero_padding(x + torch::constant_pad_nd(x.slice(1, 1), {0, 0, 0, 1}), padding_BL);
  }
  int64_t model_dim() const override { return 3; }
  void init_weights(uint64_t) override {}
  void set_precision(nn::Precision) override {}
};

std::unique_ptr<SequenceClassifier> of_next_added(const ClassifierConfig& config) {
  return with_noise(std::make_unique<SequenceClassifier>(config, std::make_shared<NextAdded>()), 1);
}

ClassifierConfig of_tokens() {
  ClassifierConfig config;
  config.vocab_size = 7, config.classes = 4;
  return config;
}

TEST(SequenceClassifier, ReadsTheMeanOverStepsOfItsTokens) {
  const auto model = of_next_added(of_tokens());
  auto p = model->named_parameters();
  const Tensor tokens = torch::tensor({{1, 2, 3}, {4, 5, 0}});
  const auto e = [&](int64_t token) { return p["embed.weight"][token]; };
  const Tensor expected = torch::stack({(e(1) + 2 * e(2) + 2 * e(3)) / 3, (e(4) + 2 * e(5)) / 2});
  const Sequences input = {tokens, padding_of({3, 2}, 3)};
  EXPECT_TRUE(close(model->representation(input), expected, 1e-6));
  EXPECT_TRUE(close(model->logits(input), torch::linear(expected, p["output.weight"], p["output.bias"]), 1e-6));
  EXPECT_TRUE(close(model->logits({tokens.slice(0, 0, 1), {}}), model->logits(input).slice(0, 0, 1), 1e-6));
}

TEST(SequenceClassifier, ReadsTheFirstStepOfItsVectorsThroughHiddenLayers) {
  ClassifierConfig config;
  config.input = "vectors", config.input_dim = 2, config.pooling = "first", config.output_bias = false;
  config.head_layers = 2, config.head_dim = 5;
  const auto model = of_next_added(config);
  auto p = model->named_parameters();
  const Tensor x = torch::randn({2, 4, 2});
  Tensor h = torch::linear(x, p["embed.weight"], p["embed.bias"]);
  h = h.select(1, 0) + h.select(1, 1);
  EXPECT_TRUE(close(model->representation({x, {}}), h, 1e-6));
  for (const std::string layer : {"head.0", "head.1"})
    h = torch::gelu(torch::linear(h, p[layer + ".weight"], p[layer + ".bias"]));
  EXPECT_TRUE(close(model->logits({x, {}}), torch::linear(h, p["output.weight"]), 1e-6));
  EXPECT_FALSE(p.contains("output.bias"));
}

TEST(SequenceClassifier, ReadsTheSecondOfAPairBeforeTheFirst) {
  ClassifierConfig config = of_tokens();
  const auto one = of_next_added(config);
  config.two_inputs = true;
  const auto two = of_next_added(config);
  torch::NoGradGuard no_grad;
  two->named_parameters()["embed.weight"].copy_(one->named_parameters()["embed.weight"]);
  const Sequences first = {torch::tensor({{1, 2, 3}}), {}}, second = {torch::tensor({{4, 5}}), {}};
  EXPECT_TRUE(torch::equal(two->representation(first, second),
                           torch::cat({one->representation(second), one->representation(first)}, 1)));
  EXPECT_EQ(two->logits(first, second).sizes(), (std::vector<int64_t>{1, 4}));
  EXPECT_THROW(two->logits(first), Error);
  EXPECT_THROW(one->logits(first, second), Error);
}

TEST(SequenceClassifier, DropsInTrainingAsItsKeySays) {
  ClassifierConfig config = of_tokens();
  config.two_inputs = true, config.dropout = 0.5, config.head_layers = 1, config.head_dim = 6;
  const auto model = of_next_added(config);
  const Sequences input = {torch::randint(7, {2, 30}, torch::kInt64), {}};
  const auto logits = [&](uint64_t key) {
    model->set_dropout_key(key);
    return model->logits(input, input);
  };
  EXPECT_TRUE(torch::equal(logits(1), logits(2)));
  model->train();
  EXPECT_TRUE(torch::equal(logits(1), logits(1)));
  EXPECT_FALSE(torch::equal(logits(1), logits(2)));
}

/// The encoder does, and not the classifier too; each sequence has masks of its own.
TEST(SequenceClassifier, ItsEmbeddingIsDroppedOnce) {
  TransformerLayerConfig layer;
  layer.model_dim = 64, layer.dropout = 0.5;
  ClassifierConfig config = of_tokens();
  config.two_inputs = true, config.pooling = "first", config.dropout = 0.5;
  SequenceClassifier model(config, std::make_shared<TransformerStack>(layer, /*num_layers=*/0, /*final_norm=*/false));
  torch::NoGradGuard no_grad;
  model.named_parameters()["embed.weight"].fill_(1);
  const Sequences input = {torch::zeros({2, 3}, torch::kInt64), {}};
  const Tensor dropped = model.representation(input, input);
  EXPECT_TRUE((dropped.eq(0) | dropped.eq(2)).all().item<bool>());
  const auto halves = dropped.chunk(2, 1);
  EXPECT_FALSE(torch::equal(halves[0], halves[1]));
}

/// Whatever type they have.
TEST(SequenceClassifier, TakesVectorsOfAnyFloatingType) {
  ClassifierConfig config;
  config.input = "vectors", config.input_dim = 2;
  const auto model = of_next_added(config);
  const Tensor x = torch::randn({2, 4, 2}).to(torch::kBFloat16);
  const Tensor expected = model->logits({x.to(torch::kFloat32), {}});
  for (const auto type : {torch::kBFloat16, torch::kFloat64})
    EXPECT_TRUE(torch::equal(model->logits({x.to(type), {}}), expected));
}

TEST(SequenceClassifier, RefusesWhatDoesNotFit) {
  const auto tokens = of_next_added(of_tokens());
  EXPECT_THROW(tokens->logits({}), Error);
  EXPECT_THROW(tokens->logits({torch::randn({2, 3, 1}), {}}), Error);
  EXPECT_THROW(tokens->logits({torch::zeros({2, 3}), {}}), Error);
  EXPECT_THROW(tokens->logits({torch::zeros({2, 0}, torch::kInt64), {}}), Error);
  const Tensor x = torch::zeros({2, 3}, torch::kInt64);
  EXPECT_THROW(tokens->logits({x, padding_of({3, 3}, 4)}), Error);
  EXPECT_THROW(tokens->logits({x, torch::zeros({2, 3})}), Error);
  EXPECT_THROW(tokens->logits({x, padding_of({3, 0}, 3)}), Error);
  EXPECT_NO_THROW(tokens->logits({x, padding_of({3, 3}, 3).logical_or(torch::arange(3) == 0)}));
  ClassifierConfig config = of_tokens();
  config.pooling = "first";
  EXPECT_THROW(of_next_added(config)->logits({x, torch::arange(3).expand({2, 3}) == 0}), Error);
  config.input = "vectors", config.input_dim = 2;
  EXPECT_THROW(of_next_added(config)->logits({torch::randn({2, 3, 1}), {}}), Error);
  EXPECT_THROW(of_next_added(config)->logits({x, {}}), Error);
}

TEST(ClassifierConfig, ContradictionsAreNamed) {
  const auto refuses = [](const std::string& part, const std::function<void(ClassifierConfig&)>& change) {
    auto config = of_tokens();
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "accepted a bad " << part;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("classifier." + part), std::string::npos) << error.what();
    }
  };
  EXPECT_NO_THROW(of_tokens().validate());
  refuses("input", [](auto& c) { c.input = "pixels"; });
  refuses("pooling", [](auto& c) { c.pooling = "last"; });
  refuses("vocab_size", [](auto& c) { c.vocab_size = 0; });
  refuses("input_dim", [](auto& c) { c.input_dim = 0; });
  refuses("classes", [](auto& c) { c.classes = 0; });
  refuses("head_layers", [](auto& c) { c.head_layers = -1; });
  refuses("head_dim", [](auto& c) { c.head_layers = 1; });
  refuses("head_dim", [](auto& c) { c.head_dim = 5; });
  refuses("dropout", [](auto& c) { c.dropout = 1; });
}

// ---- every architecture ---------------------------------------------------------------------------------------------

/// Tokens 0 and 1, among them one 2 and one 3, in sequences of 4 to 8 steps. The class: whether 2 comes before 3, of
/// which an average over steps knows nothing.
Sequences orders(int64_t batch, std::mt19937_64& rng, Tensor& class_B) {
  Tensor tokens = torch::empty({batch, 8}, torch::kInt64);
  class_B = torch::empty({batch}, torch::kInt64);
  const auto below = [&](int64_t bound) { return static_cast<int64_t>(rng() % static_cast<uint64_t>(bound)); };
  std::vector<int64_t> steps;
  for (int64_t b = 0; b < batch; ++b) {
    steps.push_back(4 + below(5));
    for (int64_t t = 0; t < 8; ++t) tokens[b][t] = below(2);
    const int64_t two = below(steps.back()), three = (two + 1 + below(steps.back() - 1)) % steps.back();
    tokens[b][two] = 2, tokens[b][three] = 3;
    class_B[b] = two < three ? 1 : 0;
  }
  return {tokens, padding_of(steps, 8)};
}

TEST_P(Encoders, LearnWhichTokenComesFirst) {
  ClassifierConfig config;
  config.vocab_size = 4;
  SequenceClassifier model(config, encoder());
  model.init_weights(1);
  std::mt19937_64 rng(1);
  // Adam, plainly.
  std::vector<Tensor> mean, square;
  for (const Tensor& p : model.parameters())
    mean.push_back(torch::zeros_like(p)), square.push_back(torch::zeros_like(p));
  double right = 0;
  for (int step = 1; step <= 400 && right < 0.99; ++step) {
    Tensor class_B;
    const Sequences input = orders(64, rng, class_B);
    const Tensor logits_BK = model.logits(input);
    model.zero_grad();
    torch::cross_entropy_loss(logits_BK, class_B).backward();
    right = (logits_BK.argmax(1) == class_B).to(torch::kFloat32).mean().item<double>();
    torch::NoGradGuard no_grad;
    const auto parameters = model.parameters();
    for (size_t i = 0; i < parameters.size(); ++i) {
      const Tensor& gradient = parameters[i].grad();
      mean[i].mul_(0.9).add_(gradient, 0.1);
      square[i].mul_(0.99).addcmul_(gradient, gradient, 0.01);
      const Tensor size = (square[i] / (1 - std::pow(0.99, step))).sqrt() + 1e-8;
      parameters[i].addcdiv_(mean[i] / (1 - std::pow(0.9, step)), size, -0.003);
    }
  }
  EXPECT_GE(right, 0.99);
}

}  // namespace
}  // namespace megalodon
