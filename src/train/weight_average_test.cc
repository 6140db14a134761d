#include "train/weight_average.h"

#include "models/weights.h"
#include "train/testing.h"

namespace megalodon {
namespace {

class Average : public testing::TrainingTest {
 protected:
  std::unique_ptr<Model> model(bool tied = false) const {
    auto config = tiny_run("run").model->clone();
    config::read(*config, {{"share_emb", tied}}, {}, "test");
    auto model = config->build();
    model->init_weights(3);
    return model;
  }
  static void add(Model& model, double value) {
    torch::NoGradGuard no_grad;
    for (const Tensor& parameter : model.parameters()) Tensor(parameter).add_(value);
  }
  static Tensor loss(Model& model) {
    model.eval();
    NoCarry carry;
    const Tensor tokens = torch::arange(97, 113).reshape({1, 16});
    return model.nll({tokens, {}}, tokens, carry).sum();
  }
};

TEST_F(Average, FollowsTheWeights) {
  const auto net = model();
  const Tensor first = net->parameters()[0].detach().clone().to(torch::kFloat64);
  WeightAverage average(*net, 0.75);
  add(*net, 1);
  average.update();
  add(*net, 1);
  average.update();
  // w, then 0.75 w + 0.25 (w + 1) = w + 0.25, then 0.75 (w + 0.25) + 0.25 (w + 2) = w + 0.6875
  EXPECT_LT((average.tensors()[0].second.to(torch::kFloat64) - first - 0.6875).abs().max().item<double>(), 1e-6);
  EXPECT_EQ(average.tensors()[0].second.scalar_type(), torch::kFloat32);
  average.reset();
  EXPECT_TRUE(torch::equal(average.tensors()[0].second, net->parameters()[0]));
}

TEST_F(Average, IsTheModelsWhileApplied) {
  for (const bool tied : {false, true}) {
    const auto net = model(tied), shifted = model(tied);
    WeightAverage average(*net, 0.5);
    add(*net, 0.5), average.update();
    add(*shifted, 0.25);
    const Tensor trained = loss(*net).detach();
    EXPECT_FALSE(torch::equal(trained, loss(*shifted)));
    {
      const WeightAverage::Applied applied(average);
      EXPECT_NEAR(loss(*net).item<double>(), loss(*shifted).item<double>(), 1e-3);
    }
    EXPECT_TRUE(torch::equal(trained, loss(*net))) << "the trained weights are back";
    loss(*net).backward();
    EXPECT_TRUE(net->parameters()[0].grad().defined()) << "and trained further";
  }
}

}  // namespace
}  // namespace megalodon
