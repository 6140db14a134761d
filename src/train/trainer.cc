#include "train/trainer.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <csignal>

#include "base/check.h"
#include "base/philox.h"
#include "base/process.h"
#include "base/utf8.h"
#include "infer/generate.h"
#include "models/weights.h"
#include "train/resume.h"
#include "train/signals.h"

namespace megalodon {
namespace {

using Json = nlohmann::ordered_json;

constexpr uint64_t kDropoutStream = 0x64726F706F7574;  // dropout's random numbers, apart from the seed's other uses
constexpr double kSmoothing = 0.95;                    // of the displayed loss: about the last 20 steps

constexpr const char* kHint =
    "the update was not applied; a lower optim.lr, a longer warm-up or a smaller optim.clip may help";

RunConfig validated(RunConfig config) {
  config.validate();
  return config;
}

/// Text of a model that may still be untrained: control characters would play tricks on a terminal.
std::string printable(std::string text) {
  const auto is_control = [](unsigned char c) { return (c < 0x20 && c != '\n' && c != '\t') || c == 0x7f; };
  std::replace_if(text.begin(), text.end(), is_control, '?');
  return text;
}

double smooth(double average, double value) {
  return average == 0 ? value : kSmoothing * average + (1 - kSmoothing) * value;
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

Trainer::Trainer(RunConfig config, TrainerOptions options)
    : config_(validated(std::move(config))),
      options_(std::move(options)),
      tokenizer_(data::make_tokenizer(config_.data.tokenizer)),
      corpus_(config_.data.train),
      loader_(corpus_, {config_.data.batch, config_.data.seq_len, static_cast<uint64_t>(config_.train.seed)}),
      model_(config_.model->build()),
      optimizer_(named_weights(*model_), config_.optimizer),
      folder_(config_.train.out),
      progress_("train", "steps", options_.out, Progress::Plain::kNothing) {
  if (!config_.data.valid.empty()) valid_.emplace(config_.data.valid);
  // Debian's libtorch starts with one thread.
  at::set_num_threads(config_.train.threads > 0 ? static_cast<int>(config_.train.threads) : available_cores());
  state_.fixed = fixed();
  state_.environment = {{"threads", at::get_num_threads()}, {"libtorch", TORCH_VERSION}};
  model_->set_checkpointing(config_.train.checkpointing);
  model_->train();
  resumed_from_ = choose_checkpoint(folder_, options_.resume);
  if (resumed_from_) {
    resume(*resumed_from_);
  } else {
    model_->init_weights(static_cast<uint64_t>(config_.train.seed));
  }
}

/// What must stay as it is for a run to continue: all that decides the next gradient besides the checkpoint's tensors.
Json Trainer::fixed() const {
  Json model = config::write(config_)["model"];
  model.erase("preset");  // the fields it filled are all there
  const DataConfig& data = config_.data;
  return {{"model", model},
          {"data",
           {{"train", corpus_.prefix().filename().string()},
            {"tokens", corpus_.tokens()},
            {"documents", corpus_.documents()},
            {"tokenizer", data.tokenizer},
            {"seq_len", data.seq_len},
            {"batch", data.batch}}},
          {"train",
           {{"accumulate", config_.train.accumulate},
            {"seed", config_.train.seed},
            {"precision", config_.train.precision},
            {"overfit_batch", options_.overfit_batch}}}};
}

int64_t Trainer::tokens_per_step() const {
  return config_.data.batch * config_.data.seq_len * config_.train.accumulate;
}

int64_t Trainer::end_step() const {
  const TrainConfig& train = config_.train;
  return train.stop_after > 0 ? std::min(train.steps, train.stop_after) : train.steps;
}

void Trainer::resume(const fs::path& checkpoint) {
  TrainerState saved = read_trainer_state(checkpoint);
  check_same_run(checkpoint, saved, state_.fixed);
  load_checkpoint(checkpoint, *model_, optimizer_);
  for (const std::string& difference : differences(saved.environment, state_.environment))
    notes_.push_back(
        fmt::format("note: {}; results may differ from those of an uninterrupted run in the last bits", difference));
  saved.environment = state_.environment;
  saved.evaluation_pending = saved.evaluation_pending && valid_.has_value();  // data.valid may have been taken away
  state_ = std::move(saved);
  loader_.seek(state_.loader_position);
}

Outcome Trainer::run() {
  const int64_t end = end_step();
  if (state_.step >= end && !state_.evaluation_pending) {
    progress_.print(fmt::format("{}: step {} of {} is done already; nothing to do", folder_.path().string(),
                                state_.step, config_.train.steps));
    return finish(true);
  }
  const SignalGuard signals;
  start();
  if (state_.evaluation_pending) evaluate_now();  // what the interrupted run still owed
  while (true) {
    if (state_.step < end && SignalGuard::received() == 0) {
      show(train_step());
      state_.evaluation_pending = valid_ && (state_.step == config_.train.steps || is_due(config_.train.eval_every));
      if (state_.evaluation_pending) evaluate_now();
      if (is_due(config_.train.sample_every)) sample_now();
    }
    const bool done = state_.step >= end && !state_.evaluation_pending, stop = done || SignalGuard::received() != 0;
    if (stop || is_due(config_.train.save_every)) save();
    if (stop) return finish(done);
  }
}

Outcome Trainer::finish(bool done) {
  progress_.finish();
  if (done) return state_.step == config_.train.steps ? Outcome::kFinished : Outcome::kStopped;
  progress_.print(fmt::format("stopped by a signal after step {}; continue with --resume auto", state_.step));
  return SignalGuard::received() == SIGINT ? Outcome::kInterrupted : Outcome::kPreempted;
}

void Trainer::start() {
  folder_.open();
  folder_.write_config(to_toml(config_));
  // Going back to an older checkpoint of this run: what the later ones hold is abandoned.
  if (resumed_from_ && fs::equivalent(fs::absolute(*resumed_from_).parent_path(), folder_.checkpoints()))
    folder_.set_latest(*resumed_from_);
  metrics_.emplace(folder_.metrics(), state_.step);
  progress_.print(overview());
}

std::string Trainer::overview() const {
  const int64_t total = tokens_per_step() * config_.train.steps;
  std::string text = to_toml(config_) + "\n";
  text += fmt::format("model  {}, {} parameters\n", config_.arch, format_count(model_->info().parameters));
  text += fmt::format("data   {}: {} tokens in {} documents\n", config_.data.train, format_count(corpus_.tokens()),
                      corpus_.documents());
  text += fmt::format("steps  {} of {} tokens: {} tokens, {:.2f} epochs\n", config_.train.steps, tokens_per_step(),
                      format_count(total), static_cast<double>(total) / static_cast<double>(corpus_.tokens()));
  text += fmt::format("run    {}, {}, {} threads\n", folder_.path().string(),
                      resumed_from_ ? fmt::format("resumed from {}", resumed_from_->filename().string()) : "new",
                      at::get_num_threads());
  for (const std::string& note : notes_) text += note + "\n";
  return text;
}

std::vector<BatchTensors> Trainer::next_batches() {
  if (options_.overfit_batch) loader_.seek(0);
  std::vector<BatchTensors> batches;
  for (int64_t i = 0; i < config_.train.accumulate; ++i)
    batches.push_back(to_tensors(loader_.next(), *config_.model, config_.data.train));
  return batches;
}

double Trainer::backward(const std::vector<BatchTensors>& batches) {
  const uint64_t dropout = derive_key(static_cast<uint64_t>(config_.train.seed), kDropoutStream);
  optimizer_.zero_grad();
  return backward_mean_loss(*model_, batches, [&](size_t i) {
    model_->set_dropout_key(derive_key(dropout, static_cast<uint64_t>(state_.micro_batches) + i));
  });
}

Trainer::StepReport Trainer::train_step() {
  const Stopwatch watch;
  const int64_t step = state_.step + 1;
  StepReport report;
  const auto batches = next_batches();
  report.loss = backward(batches);
  check(std::isfinite(report.loss), "[train] step {}: the loss is {}; {}", step, report.loss, kHint);
  report.norm = optimizer_.gradient_norm();
  check(std::isfinite(report.norm), "[train] step {}: the gradient's norm is {}; {}", step, report.norm, kHint);
  report.lr = config_.optimizer.lr * lr_multiplier(config_.schedule, state_.step, config_.train.steps);
  optimizer_.step(report.lr, report.norm);
  state_.step = step;
  state_.micro_batches += config_.train.accumulate;
  state_.loader_position = loader_.position();
  report.seconds = watch.seconds();
  return report;
}

void Trainer::show(const StepReport& report) {
  const auto tokens = static_cast<double>(tokens_per_step());
  metrics_->append({{"step", state_.step},
                    {"loss", report.loss},
                    {"grad_norm", report.norm},
                    {"lr", report.lr},
                    {"tokens", state_.step * tokens_per_step()},
                    {"tokens_per_s", std::round(tokens / report.seconds)},
                    {"step_s", report.seconds},
                    {"rss_mb", static_cast<double>(resident_bytes()) / (1 << 20)}});
  smooth_loss_ = smooth(smooth_loss_, report.loss);
  smooth_seconds_ = smooth(smooth_seconds_, report.seconds);
  const std::string detail = fmt::format("loss {:.4f}  lr {:.2e}  norm {:.3f}  {} tokens/s", smooth_loss_, report.lr,
                                         report.norm, format_count(tokens / smooth_seconds_));
  progress_.update(state_.step, config_.train.steps, detail);
  const bool first_or_last = state_.step == 1 || state_.step == end_step();
  if (!progress_.interactive() && (first_or_last || is_due(config_.train.log_every)))
    progress_.print(
        fmt::format("step {}/{}  {}  ETA {}", state_.step, config_.train.steps, detail,
                    format_duration(smooth_seconds_ * static_cast<double>(config_.train.steps - state_.step))));
}

void Trainer::evaluate_now() {
  const Stopwatch watch;
  const auto result = evaluate(*model_, *valid_, *tokenizer_,
                               {.batch = config_.data.batch,
                                .length = config_.data.seq_len,
                                .tokens = config_.train.eval_tokens,
                                .progress =
                                    [&](int64_t done, int64_t total) {
                                      progress_.update(state_.step, config_.train.steps,
                                                       fmt::format("evaluating {:.0f}%", 100.0 * done / total));
                                    },
                                .stop = [] { return SignalGuard::received() != 0; }});
  if (!result) return;  // interrupted: still pending
  state_.evaluation_pending = false;
  metrics_->append({{"step", state_.step},
                    {"eval_loss", result->loss},
                    {"perplexity", std::exp(result->loss)},
                    {"bits_per_byte", result->bits_per_byte},
                    {"eval_tokens", result->tokens},
                    {"eval_s", watch.seconds()}});
  progress_.print(
      fmt::format("step {}: held-out loss {:.4f}, perplexity {:.3f}, {:.4f} bits per byte ({} tokens, {:.1f} s)",
                  state_.step, result->loss, std::exp(result->loss), result->bits_per_byte,
                  format_count(static_cast<double>(result->tokens)), watch.seconds()));
}

void Trainer::sample_now() {
  const EvaluationMode mode(*model_);
  const auto ids = tokenizer_->encode(config_.train.sample_prompt);
  Sampler sampler({.seed = config_.train.seed});  // its own random numbers: the run's stay where they are
  std::string text = config_.train.sample_prompt;
  Utf8Stream utf8;
  const auto emit = [&](int64_t token) {
    text += utf8.push(tokenizer_->decode(static_cast<int32_t>(token)));
    return SignalGuard::received() == 0;
  };
  generate(*model_, {ids.begin(), ids.end()}, config_.train.sample_tokens, tokenizer_->vocabulary(), sampler, emit);
  text += utf8.finish();
  progress_.print(fmt::format("step {}, a sample:\n{}\n", state_.step, printable(text)));
}

void Trainer::save() {
  folder_.save(*model_, tokenizer_->describe(), optimizer_, state_, config_.train.keep);
}

}  // namespace megalodon
