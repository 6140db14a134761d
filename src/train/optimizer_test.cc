#include "train/optimizer.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "base/testing.h"
#include "models/weights.h"

namespace megalodon {
namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

/// Ones everywhere with a zero gradient: an update then is the decay alone.
Named parameters_of_one_block() {
  Named parameters;
  const auto add = [&](const char* name, std::vector<int64_t> shape) {
    Tensor parameter = torch::ones(shape).requires_grad_();
    parameter.mutable_grad() = torch::zeros(shape);
    parameters.emplace_back(name, parameter);
  };
  add("embed.weight", {8, 4});
  add("layers.0.mega.wz.weight", {4, 4});
  add("layers.0.mega.wz.bias", {4});
  add("layers.0.mega.gamma", {2, 4});
  add("layers.0.mega.timenorm.weight", {4});
  add("layers.0.mega.cema.alpha", {4, 3, 1});
  add("layers.0.mega.cema.omega", {4, 1});
  add("layers.0.mega.table", {4, 4});        // no ".weight"
  add("layers.0.mega.rows.weight", {2, 4});  // a pair of vectors
  return parameters;
}

TEST(Optimizer, DecaysMatricesOnly) {
  const Named parameters = parameters_of_one_block();
  AdamW optimizer(parameters, {.weight_decay = 0.5});
  optimizer.step(0.1, optimizer.gradient_norm());
  for (const auto& [name, parameter] : parameters) {
    const bool matrix = name == "embed.weight" || name == "layers.0.mega.wz.weight";
    EXPECT_NEAR(parameter.min().item<double>(), matrix ? 0.95 : 1.0, 1e-6) << name;
  }
}

TEST(Optimizer, DecaysEverythingOnRequest) {
  const Named parameters = parameters_of_one_block();
  AdamW optimizer(parameters, {.weight_decay = 0.5, .decay_all = true});
  optimizer.step(0.1, optimizer.gradient_norm());
  for (const auto& [name, parameter] : parameters) EXPECT_NEAR(parameter.min().item<double>(), 0.95, 1e-6) << name;
}

TEST(Optimizer, TwoUpdatesByHand) {
  Tensor p = torch::full({1}, 2.0).requires_grad_();
  AdamW optimizer({{"p", p}}, {.beta1 = 0.5, .beta2 = 0.75, .eps = 1e-8, .weight_decay = 0.1, .clip = 0});
  double expected = 2, m = 0, v = 0;
  for (const double g : {3.0, -1.0}) {
    p.mutable_grad() = torch::full({1}, g);
    optimizer.step(0.1, optimizer.gradient_norm());
    const auto t = static_cast<double>(optimizer.updates());
    m = 0.5 * m + 0.5 * g, v = 0.75 * v + 0.25 * g * g;  // no decay: p is not a matrix
    expected -= 0.1 * (m / (1 - std::pow(0.5, t))) / (std::sqrt(v / (1 - std::pow(0.75, t))) + 1e-8);
    EXPECT_NEAR(p.item<double>(), expected, 1e-6);
  }
}

TEST(Optimizer, GroupsHaveRatesAndDecaysOfTheirOwn) {
  struct Case {
    const char* name;
    double lr, decay;
  };
  // The first group that matches counts; what it does not say is the run's.
  const std::vector<Case> cases = {{"embed.weight", 0.1, 0.5},
                                   {"layers.0.s4.D", 0.1, 0},
                                   {"layers.0.s4.kernel.A_real", 0.01, 0},
                                   {"layers.0.s4.kernel.C", 0.05, 0.25},
                                   {"layers.0.s4.output.weight", 0.1, 0},
                                   {"layers.1.s4.output.weight", 0, 0.5}};
  Named parameters;
  for (const Case& c : cases) parameters.emplace_back(c.name, torch::full({4, 4}, 2.0).requires_grad_());
  AdamW optimizer(parameters, {.beta1 = 0.5,
                               .beta2 = 0.75,
                               .weight_decay = 0.5,
                               .clip = 0,
                               .groups = {"*.kernel.C lr=0.5 weight_decay=0.25", "*.kernel.* lr=0.1 weight_decay=0",
                                          "layers.0.s4.output.weight weight_decay=0", "layers.1.* lr=0"}});
  std::vector<double> expected(cases.size(), 2), m(cases.size(), 0), v(cases.size(), 0);
  for (const double g : {3.0, -1.0}) {
    for (const auto& [name, parameter] : parameters) parameter.mutable_grad() = torch::full({4, 4}, g);
    EXPECT_NEAR(optimizer.gradient_norm(), std::abs(g) * std::sqrt(16.0 * 6), 1e-6) << "of all groups together";
    optimizer.step(0.1, optimizer.gradient_norm());
    const auto t = static_cast<double>(optimizer.updates());
    for (size_t i = 0; i < cases.size(); ++i) {
      m[i] = 0.5 * m[i] + 0.5 * g, v[i] = 0.75 * v[i] + 0.25 * g * g;
      expected[i] *= 1 - cases[i].lr * cases[i].decay;
      expected[i] -= cases[i].lr * (m[i] / (1 - std::pow(0.5, t))) / (std::sqrt(v[i] / (1 - std::pow(0.75, t))) + 1e-8);
      const Tensor& parameter = parameters[i].second;
      EXPECT_NEAR(parameter.min().item<double>(), expected[i], 1e-6) << cases[i].name;
      EXPECT_NEAR(parameter.max().item<double>(), expected[i], 1e-6) << cases[i].name;
    }
  }
}

TEST(Optimizer, GroupsWithoutParametersAreRefused) {
  const auto message = [](std::vector<std::string> groups) {
    return error_of([&] { AdamW(parameters_of_one_block(), {.groups = std::move(groups)}); });
  };
  EXPECT_EQ(AdamW(parameters_of_one_block(), {.groups = {"*.cema.* lr=0.1", "*a* lr=0.5"}}).state().size(), 18U);
  expect_contains(message({"*.cema.alhpa lr=0.1"}), {"optim.groups", "*.cema.alhpa", "'*.cema.alpha'?"});
  expect_contains(message({"layers.*.wz.wieght lr=0.1"}), {"'*.wz.weight'?"});
  expect_contains(message({"embd.weight lr=0.1"}), {"'embed.weight'?"});
  expect_contains(message({"*xyz* lr=0.1"}), {"*xyz*", "one is 'embed.weight'"});
  expect_contains(message({"*.cema.* lr=0.1", "*.alpha lr=0.1"}), {"*.alpha", "before it"});
}

TEST(Optimizer, NormSpansAllGradientsAndClipsTheMoments) {
  const Named parameters = {{"a", torch::zeros({2}).requires_grad_()}, {"b", torch::zeros({1}).requires_grad_()}};
  parameters[0].second.mutable_grad() = torch::tensor({3.0F, 0.0F});
  parameters[1].second.mutable_grad() = torch::tensor({4.0F});
  AdamW optimizer(parameters, {.beta1 = 0, .clip = 1});
  EXPECT_DOUBLE_EQ(optimizer.gradient_norm(), 5);
  optimizer.step(0.1, optimizer.gradient_norm());
  EXPECT_NEAR(optimizer.state()[0].second[0].item<double>(), 3.0 / (5 + 1e-6), 1e-6);  // exp_avg.a = clipped gradient
  EXPECT_NEAR(optimizer.state()[2].second[0].item<double>(), 4.0 / (5 + 1e-6), 1e-6);

  AdamW unclipped(parameters, {.beta1 = 0, .clip = 0});
  unclipped.step(0.1, unclipped.gradient_norm());
  EXPECT_NEAR(unclipped.state()[0].second[0].item<double>(), 3.0, 1e-6);
}

TEST(Optimizer, AGradientBelowTheLimitIsNotScaledUp) {
  Tensor p = torch::zeros({1}).requires_grad_();
  p.mutable_grad() = torch::full({1}, 0.25);
  AdamW optimizer({{"p", p}}, {.beta1 = 0, .clip = 1});
  optimizer.step(0.1, optimizer.gradient_norm());
  EXPECT_FLOAT_EQ(optimizer.state()[0].second.item<float>(), 0.25F);
}

io::TensorFile file_of(const Named& tensors) {
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : tensors) views.push_back(to_view(name, tensor));
  return {std::move(views), {}, {}};
}

TEST(Optimizer, StateRoundTripContinuesBitForBit) {
  const auto update = [](AdamW& optimizer, const Tensor& p, double g) {
    p.mutable_grad() = torch::full({3}, g);
    optimizer.step(0.1, optimizer.gradient_norm());
  };
  Tensor p = torch::ones({3}).requires_grad_();
  AdamW straight({{"p", p}}, {});
  update(straight, p, 0.5);
  Tensor q = p.detach().clone().requires_grad_();
  AdamW resumed({{"p", q}}, {});
  resumed.load_state(file_of(straight.state()), straight.updates());
  update(straight, p, -0.3);
  update(resumed, q, -0.3);
  EXPECT_TRUE(torch::equal(p, q));
  EXPECT_EQ(resumed.updates(), 2);
}

TEST(Optimizer, RefusesAStateOfAnotherModel) {
  AdamW optimizer({{"p", torch::ones({3}).requires_grad_()}}, {});
  const auto message = [&](const Named& tensors) -> std::string {
    try {
      optimizer.load_state(file_of(tensors), 1);
    } catch (const Error& error) {
      return error.what();
    }
    return "";
  };
  const Tensor good = torch::zeros({3}), misshapen = torch::zeros({4}), wide = torch::zeros({3}, torch::kFloat64);
  EXPECT_EQ(message({{"exp_avg.p", good}, {"exp_avg_sq.p", good}}), "");
  EXPECT_NE(message({{"exp_avg.p", good}}).find("missing exp_avg_sq.p"), std::string::npos);
  EXPECT_NE(message({{"exp_avg.p", good}, {"exp_avg_sq.p", misshapen}}).find("[4]"), std::string::npos);
  EXPECT_NE(message({{"exp_avg.p", good}, {"exp_avg_sq.p", wide}}).find("F64"), std::string::npos);
  EXPECT_NE(message({{"exp_avg.p", good}, {"exp_avg_sq.p", good}, {"exp_avg.q", good}}).find("surplus exp_avg.q"),
            std::string::npos);
}

TEST(Optimizer, ValidateNamesTheField) {
  const auto message = [](const OptimizerConfig& config) -> std::string {
    try {
      config.validate();
    } catch (const UsageError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(message({}), "");
  EXPECT_NE(message({.lr = 0}).find("optim.lr"), std::string::npos);
  EXPECT_NE(message({.beta1 = 1}).find("optim.beta1"), std::string::npos);
  EXPECT_NE(message({.beta2 = -1}).find("optim.beta2"), std::string::npos);
  EXPECT_NE(message({.eps = 0}).find("optim.eps"), std::string::npos);
  EXPECT_NE(message({.weight_decay = -1}).find("optim.weight_decay"), std::string::npos);
  EXPECT_NE(message({.clip = -1}).find("optim.clip"), std::string::npos);
  const auto group = [&](const char* text) { return message({.groups = {"a lr=1", text}}); };
  EXPECT_EQ(group("*.kernel.* lr=0.1   weight_decay=0"), "");
  for (const char* text : {"", "*", "  "}) expect_contains(group(text), {"optim.groups", "*.bias lr=0.1"});
  expect_contains(group("a rl=1"), {"optim.groups", "'rl'", "'lr'"});
  expect_contains(group("a lr=fast"), {"optim.groups", "a lr=fast"});
  expect_contains(group("a lr"), {"optim.groups", "a lr"});
  expect_contains(group("a lr=-1"), {"lr in optim.groups", "-1"});
  expect_contains(group("a lr=1 weight_decay=-1"), {"weight_decay in optim.groups", "-1"});
}

}  // namespace
}  // namespace megalodon
