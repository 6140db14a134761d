// Training: a few optimizer steps, and the tables of learning-rate multipliers.
#include "train_cases.h"

#include <fmt/format.h>

#include "cases.h"
#include "model_cases.h"
#include "models/weights.h"
#include "train/optimizer.h"
#include "train/schedule.h"

namespace megalodon::golden {
namespace {

// Formulas in double on both sides.
constexpr Tolerance kRounding{1e-12};

/// The published names of a schedule's fields, in lr_schedules.json and in the optimizer of a training case alike.
ScheduleConfig read_schedule(const Json& json) {
  ScheduleConfig schedule;
  schedule.kind = json.at("scheduler").get<std::string>();
  schedule.warmup = json.at("warmup").get<int64_t>();
  schedule.init_ratio = json.at("lr_init_ratio").get<double>();
  schedule.end_ratio = json.at("lr_end_ratio").get<double>();
  schedule.cycles = json.at("cycles").get<double>();
  return schedule;
}

OptimizerConfig read_optimizer(const Json& json) {
  OptimizerConfig config;
  config.lr = json.at("lr").get<double>();
  config.beta1 = json.at("beta1").get<double>();
  config.beta2 = json.at("beta2").get<double>();
  config.eps = json.at("epsilon").get<double>();
  config.weight_decay = json.at("weight_decay").get<double>();
  config.clip = json.at("clip").get<double>();
  config.decay_all = true;  // the published optimizer has one group
  return config;
}

struct Trajectory {
  std::vector<double> loss, norm, lr;
  double final_loss = 0;
};

Trajectory train(const Pass& pass, Model& model, AdamW& optimizer, const OptimizerConfig& config) {
  const Json& json = pass.source().config();
  const ScheduleConfig schedule = read_schedule(json.at("optimizer"));
  const Tensor tokens_SBL = pass.get("in.tokens"), targets_SBL = pass.get("in.targets");
  const auto steps = json.at("steps").get<int64_t>(), total = json.at("total_steps").get<int64_t>();
  const auto loss_of = [&](int64_t step) {
    NoCarry carry;
    return model.nll({tokens_SBL[step], {}}, targets_SBL[step], carry).mean();
  };
  Trajectory result;
  model.train();
  for (int64_t step = 0; step < steps; ++step) {
    optimizer.zero_grad();
    const Tensor loss = loss_of(step);
    loss.backward();
    result.loss.push_back(loss.item<double>());
    result.norm.push_back(optimizer.gradient_norm());
    result.lr.push_back(config.lr * lr_multiplier(schedule, step, total));
    optimizer.step(result.lr.back(), result.norm.back());
  }
  torch::NoGradGuard no_grad;
  result.final_loss = loss_of(steps - 1).item<double>();
  return result;
}

}  // namespace

void run_training(Pass& pass) {
  const Case& source = pass.source();
  const OptimizerConfig config = read_optimizer(source.config().at("optimizer"));
  const auto model = build_model(source);
  AdamW optimizer(named_weights(*model), config);
  const Trajectory got = train(pass, *model, optimizer, config);

  const auto compare = [&](const std::string& name, const Tensor& tensor, Tolerance tolerance) {
    if (source.has(name)) pass.comparer().near(name, tensor.detach(), source.tensor(name), tolerance);
  };
  const auto row = [](const std::vector<double>& values) { return torch::tensor(values, torch::kFloat64); };
  // The optimizer is float32; its trajectory is close enough to the float64 one to be held to the same tolerance.
  for (const std::string prefix : {"out.", "out64."}) {
    compare(prefix + "loss", row(got.loss), source.output_tolerance());
    compare(prefix + "grad_norm", row(got.norm), source.gradient_tolerance());
    compare(prefix + "final_loss", torch::scalar_tensor(got.final_loss, torch::kFloat64), source.output_tolerance());
  }
  compare("out.lr", row(got.lr), kRounding);
  const Tolerance gradient = source.gradient_tolerance();
  for (const auto& [name, tensor] : named_weights(*model))
    compare("out.final." + name, tensor, source.output_tolerance());
  // The moments are averages of gradients and of their squares, which have twice the relative error.
  for (const auto& [name, tensor] : optimizer.state())
    compare("out." + name, tensor, {name.rfind("exp_avg_sq.", 0) == 0 ? 2 * gradient.relative : gradient.relative});
}

void check_schedules(const fs::path& file, Comparer& comparer) {
  const Json tables = read_json(file);
  for (const Json& table : tables.at("cases")) {
    const ScheduleConfig schedule = read_schedule(table);
    const auto steps = table.at("steps").get<std::vector<int64_t>>();
    std::vector<double> got;
    for (const int64_t step : steps)
      got.push_back(lr_multiplier(schedule, step, table.at("total_steps").get<int64_t>()));
    comparer.near(fmt::format("multiplier (table {}, {})", comparer.count(), schedule.kind),
                  torch::tensor(got, torch::kFloat64),
                  torch::tensor(table.at("multiplier").get<std::vector<double>>(), torch::kFloat64), kRounding);
  }
  if (comparer.count() == 0) comparer.fail("the file holds no tables");
}

}  // namespace megalodon::golden
