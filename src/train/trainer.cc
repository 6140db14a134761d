#include "train/trainer.h"

#include <fmt/format.h>

#include <csignal>

#include "base/check.h"
#include "base/philox.h"
#include "base/process.h"
#include "models/weights.h"
#include "ops/device.h"
#include "train/machine.h"
#include "train/resume.h"

namespace megalodon {
namespace {

constexpr uint64_t kDropoutStream = 0x64726F706F7574;  // dropout's random numbers, apart from the seed's other uses

RunConfig validated(RunConfig config) {
  config.validate();
  ops::parse_device(config.train.device);  // before anything is opened
  return config;
}

}  // namespace

int exit_code(Outcome outcome) {
  switch (outcome) {
    case Outcome::kInterrupted:
      return 128 + SIGINT;
    case Outcome::kPreempted:
      return 75;
    default:
      return 0;
  }
}

Outcome outcome_of_signal() {
  return SignalGuard::received() == SIGINT ? Outcome::kInterrupted : Outcome::kPreempted;
}

Trainer::Trainer(RunConfig config, TrainerOptions options)
    : config_(validated(std::move(config))),
      options_(std::move(options)),
      task_(make_task(config_)),
      optimizer_(named_weights(task_->network()), config_.optimizer),
      guard_(config_.train.guard),
      early_stop_(config_.train.early_stop_patience, config_.train.early_stop_min_delta),
      folder_(config_.train.out),
      monitor_(config_.train, task_->step_size(), options_.out) {
  // Debian's libtorch starts with one thread.
  at::set_num_threads(config_.train.threads > 0 ? static_cast<int>(config_.train.threads) : available_cores());
  if (config_.train.ema_decay > 0) average_.emplace(task_->network(), config_.train.ema_decay);
  begin();
}

/// At the checkpoint that is to be resumed, or at the seed.
void Trainer::begin() {
  state_ = describe_run(config_, *task_, options_.overfit_batch);
  // Claimed before the choice: another trainer could move on between the two.
  if (!options_.dry_run) folder_.open();
  resumed_from_ = choose_checkpoint(folder_, options_.resume);
  if (resumed_from_) return resume(*resumed_from_);
  task_->init_weights(static_cast<uint64_t>(config_.train.seed));
  if (average_) average_->reset();
}

bool Trainer::done() const {
  return !state_.evaluation_pending && (state_.step >= config_.train.last_step() || early_stop_.reached());
}

Outcome Trainer::run() {
  go_on();
  if (done()) {
    monitor_.complete(folder_, state_);
    monitor_.print(fmt::format("{}: nothing to do, step {} is done and train.steps is {}", folder_.path().string(),
                               state_.step, config_.train.steps));
    return finish();
  }
  start();
  while (true) {
    if (!done() && !SignalGuard::stopping()) advance_or_save();
    const bool stop = done() || SignalGuard::stopping();
    save_if_due(stop);
    if (!stop) continue;
    const Outcome outcome = finish();
    monitor_.close();
    return outcome;
  }
}

/// Where a step, an evaluation or a sample fails, what was applied before it is not lost.
void Trainer::advance_or_save() {
  try {
    advance();
  } catch (const std::exception&) {
    save_at_last();
    throw;
  }
}

/// One step and what is due after it; or what an interrupted run still owes.
void Trainer::advance() {
  if (state_.evaluation_pending) return evaluate_now();
  const auto report = train_step();
  if (!report) return;
  if (report->judgement.verdict == Verdict::kRollback) return roll_back(*report);
  monitor_.step(*report);
  state_.evaluation_pending =
      task_->has_held_out() && (state_.step == config_.train.steps || is_due(config_.train.eval_every));
  if (state_.evaluation_pending) evaluate_now();
  if (is_due(config_.train.sample_every) && !SignalGuard::stopping()) sample_now();
}

Outcome Trainer::finish() {
  monitor_.finish();
  if (!done()) {
    monitor_.print(fmt::format("stopped by a signal after step {}; continue with --resume auto", state_.step));
    return outcome_of_signal();
  }
  if (state_.step == config_.train.steps) return Outcome::kFinished;
  if (!early_stop_.reached()) return Outcome::kStopped;
  monitor_.print(
      fmt::format("stopped early after step {}: {} evaluations without a better held-out loss than {:.4f} of "
                  "step {}",
                  state_.step, config_.train.early_stop_patience, early_stop_.best(), early_stop_.best_step()));
  return Outcome::kEarlyStopped;
}

void Trainer::start() {
  folder_.write_config(to_toml(config_));
  const TrainConfig& train = config_.train;
  writer_.emplace(folder_, SaveOptions{train.keep, train.major_every, static_cast<uint64_t>(train.shard_gb * 1e9)},
                  train.async_save);
  monitor_.open(folder_, state_, resumed_from_ && is_of_run(*resumed_from_, folder_));
  monitor_.configuration(state_.step, to_toml(config_));
  monitor_.print(overview());
  const bool on_gpu = task_->device().is_cuda();
  if (config_.train.measure_peak && task_->step_size().flops > 0) {
    // On a CPU a float32 product whatever the precision, so that shares of runs in both can be compared.
    const auto precision = on_gpu ? config_.train.compute_precision() : nn::Precision::kFloat32;
    const double peak = measure_peak_flops(precision, task_->device());
    monitor_.set_peak(peak);
    monitor_.print(fmt::format("peak   {:.1f} GFLOP/s in a {} matrix product\n", peak * 1e-9,
                               precision == nn::Precision::kBfloat16 ? "bfloat16" : "float32"));
  }
}

std::string Trainer::overview() const {
  std::string text = to_toml(config_) + "\n";
  for (const std::string& line : task_->describe()) text += line + "\n";
  text += fmt::format("run    {}, {}, {} threads{}\n", folder_.path().string(),
                      resumed_from_ ? fmt::format("resumed from {}", resumed_from_->filename().string()) : "new",
                      at::get_num_threads(), task_->device().is_cuda() ? ", " + describe_machine(task_->device()) : "");
  for (const std::string& note : notes_)
    if (!note.empty()) text += note + "\n";
  const std::string warning = schedule_warning(config_.schedule, config_.train.steps);
  if (!warning.empty()) text += warning + "\n";
  return text;
}

/// None where time runs out after a signal: half of train.grace_seconds belongs to saving.
std::optional<double> Trainer::backward() {
  const uint64_t dropout = derive_key(static_cast<uint64_t>(config_.train.seed), kDropoutStream);
  const double grace = config_.train.grace_seconds / 2;
  optimizer_.zero_grad();
  return task_->backward([&](size_t i) { return derive_key(dropout, static_cast<uint64_t>(state_.micro_batches) + i); },
                         [&] { return grace > 0 && SignalGuard::seconds_since() > grace; });
}

/// None where a signal ended it: before the data was there, or because time ran out. Nothing has changed then, nor
/// where the step is to be rolled back.
std::optional<StepReport> Trainer::train_step() {
  const Stopwatch watch;
  if (options_.overfit_batch) task_->seek(0);
  if (!task_->read(SignalGuard::stopping)) return {};
  StepReport report;
  report.step = state_.step + 1;
  report.data_wait = watch.seconds();
  const auto loss = backward();
  if (!loss) {
    task_->settle(Verdict::kRollback);
    return {};
  }
  report.loss = *loss;
  report.norm = optimizer_.gradient_norm();
  report.lr = config_.optimizer.lr * lr_multiplier(config_.schedule, state_.step, config_.train.steps);
  report.targets = task_->targets();
  report.save_wait = std::exchange(save_wait_, 0);
  UpdateGuard guard = guard_;
  report.judgement = guard.judge(report.step, report.loss, report.norm, state_.loader_position, task_->position());
  report.skips = guard.skips();
  report.rollbacks = guard.rollbacks();
  if (report.judgement.verdict == Verdict::kRollback) {
    task_->settle(Verdict::kRollback);
    return report;
  }
  half_done_ = true;
  guard_ = std::move(guard);
  if (report.judgement.verdict == Verdict::kApply) {
    optimizer_.step(report.lr, report.norm);
    if (average_) average_->update();
  }
  task_->settle(report.judgement.verdict);
  state_.micro_batches += config_.train.accumulate;
  state_.loader_position = task_->position();
  state_.tokens += report.targets;
  state_.updates = optimizer_.updates();
  state_.step = report.step;
  half_done_ = false;
  unsaved_ = true;
  report.total_targets = state_.tokens;
  ops::synchronize(task_->device());
  if (task_->device().is_cuda()) report.gpu_bytes = ops::peak_memory(task_->device());
  report.seconds = watch.seconds();
  return report;
}

void Trainer::evaluate_now() {
  const Stopwatch watch;
  const auto evaluate = [&](const char* what) {
    return task_->evaluate(SignalGuard::stopping, [&](double share) {
      monitor_.busy(state_.step, fmt::format("evaluating {} {:.0f}%", what, 100 * share));
    });
  };
  const auto list = evaluate("the model");
  std::optional<std::vector<NamedEvaluation>> of_average{std::in_place};
  if (list && average_ && config_.train.eval_ema) {
    const WeightAverage::Applied applied(*average_);
    of_average = evaluate("the averaged weights");
  }
  if (!list || !of_average) return;  // interrupted: still pending
  state_.evaluation_pending = false;
  unsaved_ = true;
  early_stop_.add(state_.step, list->front().result.loss);
  monitor_.evaluation(state_.step, *list, *of_average, watch.seconds());
}

void Trainer::sample_now() {
  monitor_.print(fmt::format("step {}, a sample:\n{}\n", state_.step, task_->sample(SignalGuard::stopping)));
}

}  // namespace megalodon
