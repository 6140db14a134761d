#include "train/run_config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "data/loader.h"
#include "data/tokenizer.h"

namespace megalodon {
namespace {

using config::Tree;

constexpr const char* kClassifierHelp =
    "with train.task = \"classification\": between an embedding and a head are the layers of [model], whose "
    "vocabulary, "
    "embedding and outputs play no part";

// Far beyond any sense; their product is far below overflow.
constexpr int64_t kMaxTokensPerStep = int64_t{1} << 32, kMaxCount = int64_t{1} << 30;

void at_least(const char* key, int64_t value, int64_t least, const char* meaning = "") {
  if (value < least) fail_usage("[{}] expected {}{} or more, got {}", key, least, meaning, value);
  if (value > kMaxCount) fail_usage("[{}] expected at most {}, got {}", key, kMaxCount, value);
}

/// The text under <section>.<name>, wherever it is given; values of another type are left to config::read() to refuse.
std::string text_at(const char* section, const char* name, const Tree& tree, const config::Overrides& overrides) {
  const auto found = overrides.find(fmt::format("{}.{}", section, name));
  if (found != overrides.end()) return found->second;
  const auto fields = tree.find(section);
  if (fields == tree.end() || !fields->is_object()) return "";
  const auto value = fields->find(name);
  return value != fields->end() && value->is_string() ? value->get<std::string>() : "";
}

bool gives_vocabulary(const char* section, const Tree& tree, const config::Overrides& overrides) {
  const auto fields = tree.find(section);
  return overrides.count(fmt::format("{}.vocab_size", section)) > 0 ||
         (fields != tree.end() && fields->is_object() && fields->contains("vocab_size"));
}

void check_task(const std::string& task) {
  if (task != "language_modelling" && task != "classification")
    fail_usage("[train.task] expected language_modelling or classification, got \"{}\"", task);
}

/// The task, which decides what sections there are, and the hyperparameters that the run file's own values go on top
/// of.
void start_from_defaults(RunConfig& run, const Tree& tree, const config::Overrides& overrides) {
  const std::string arch = text_at("model", "arch", tree, overrides);
  const std::string preset = text_at("model", "preset", tree, overrides);
  if (const std::string task = text_at("train", "task", tree, overrides); !task.empty()) {
    check_task(task);
    run.train.task = task;
  }
  if (preset.empty()) {
    run.model = make_config(arch.empty() ? run.arch : arch);
  } else {
    run.model = make_preset(preset);
    if (!arch.empty() && arch != run.model->architecture())
      fail_usage("[model.preset] {} is a {}, but model.arch says {}; leave model.arch out", preset,
                 run.model->architecture(), arch);
  }
  run.arch = run.model->architecture();
}

}  // namespace

void DataConfig::visit(config::Visitor& v) {
  v.field("train", train, "pairs to train on, each PREFIX or PREFIX*WEIGHT; for classifiers one set of examples");
  v.field("valid", valid,
          "pairs, or sets of examples, to evaluate on, each PREFIX or NAME=PREFIX, the most important first; none: no "
          "evaluation");
  v.field("tokenizer", tokenizer, "what the tokens are: bytes, or a *.model, *.words or tokenizer.json file");
  v.field("seq_len", seq_len, "tokens of a training sequence; for classifiers see classifier.max_steps");
  v.field("batch", batch, "sequences of a forward pass; for classifiers examples");
  v.field(
      "packing", packing,
      "how documents fill sequences: stream, documents, stateful; data.valid is read as a stream, or as rows that go "
      "on where training's do (stateful)");
  v.field("segment", segment,
          "packing = stateful: sequences that a row goes on for before it begins anew; 0: as many as there are");
}

void DataConfig::validate() const {
  data::parse_mixture(train, "data.train");
  at_least("data.seq_len", seq_len, 1);
  at_least("data.batch", batch, 1);
  at_least("data.segment", segment, 0, " (as long as possible)");
  if (data::parse_packing(packing) != data::Packing::kStateful && segment != 0)
    fail_usage("[data.segment] is {}, but only rows of data.packing = \"stateful\" go on, not of \"{}\"", segment,
               packing);
}

void TrainConfig::visit(config::Visitor& v) {
  v.field("task", task, "what is trained: language_modelling, or classification, which [classifier] describes");
  v.field("steps", steps, "optimizer updates");
  v.field("accumulate", accumulate, "forward passes of data.batch sequences for one update");
  v.field("seed", seed, "of initialization, data order and dropout");
  v.field("out", out, "run folder: configuration, metrics, checkpoints");
  v.field("precision", precision, "of matrix products: float32 or bfloat16; all else, weights included, is float32");
  v.field("checkpointing", checkpointing, "recompute activations in the backward pass: less memory, a third more work");
  v.field("checkpoint_every", checkpoint_every, "with checkpointing: of one layer in so many");
  v.field("device", device, "what computes: cpu, cuda or cuda:N");
  v.field("threads", threads, "CPU threads; 0: all cores");
  v.field("eval_every", eval_every, "steps between evaluations on data.valid; 0: only at the end");
  v.field("eval_tokens", eval_tokens,
          "tokens of an evaluation, from the beginning of data.valid; 0: all, as for classifiers in any case");
  v.field("sample_every", sample_every, "steps between samples of text; 0: none");
  v.field("sample_prompt", sample_prompt, "text that samples continue");
  v.field("sample_tokens", sample_tokens, "tokens of a sample");
  v.field("save_every", save_every, "steps between checkpoints; 0: only at the end");
  v.field("keep", keep, "checkpoints to keep, the newest");
  v.field("major_every", major_every, "checkpoints of every so many steps are kept for good; 0: none");
  v.field("shard_gb", shard_gb, "gigabytes (10^9 bytes) of a checkpoint file beyond which it is split into shards");
  v.field("async_save", async_save,
          "write checkpoints beside training: a step waits for a copy in memory, not the disk");
  v.field("log_every", log_every, "steps between lines of output where it is not a terminal");
  v.field("stop_after", stop_after, "save and stop after this step, leaving the rest to --resume; 0: never");
  v.field("grace_seconds", grace_seconds,
          "time between a signal and the kill that follows it: half of it for the step, the rest for saving; 0: the "
          "step is always finished");
  v.field("tensorboard", tensorboard, "write event files for TensorBoard to the run folder");
  v.field("measure_peak", measure_peak, "time a matrix product at the start, to state the share of the machine's peak");
  v.field("ema_decay", ema_decay, "decay of a moving average of the weights, saved beside them; 0: none");
  v.field("eval_ema", eval_ema, "evaluate the average too");
  v.field("early_stop_patience", early_stop_patience,
          "evaluations without a better loss on the first of data.valid after which the run ends; 0: never");
  v.field("early_stop_min_delta", early_stop_min_delta, "how much lower a loss must be to be better");
  v.section("", guard, "train: updates that are left out, and warnings");
}

void TrainConfig::validate() const {
  check_task(task);
  at_least("train.steps", steps, 1);
  at_least("train.accumulate", accumulate, 1);
  if (out.empty()) fail_usage("[train.out] missing: name the run folder");
  if (precision == "float16")
    fail_usage("[train.precision] float16 is refused: its range (6e-8 to 65504) loses small gradients; use bfloat16");
  if (precision != "float32" && precision != "bfloat16")
    fail_usage("[train.precision] expected float32 or bfloat16, got \"{}\"", precision);
  at_least("train.checkpoint_every", checkpoint_every, 1);
  at_least("train.threads", threads, 0, " (all cores)");
  at_least("train.eval_every", eval_every, 0, " (only at the end)");
  at_least("train.eval_tokens", eval_tokens, 0, " (all)");
  at_least("train.sample_every", sample_every, 0, " (none)");
  at_least("train.sample_tokens", sample_tokens, 1);
  if (sample_every > 0 && sample_prompt.empty())
    fail_usage("[train.sample_prompt] is empty; a sample needs at least one token to continue");
  at_least("train.save_every", save_every, 0, " (only at the end)");
  at_least("train.keep", keep, 1);
  at_least("train.major_every", major_every, 0, " (none)");
  if (!(shard_gb > 0 && shard_gb <= 1e6))
    fail_usage("[train.shard_gb] expected a number in (0, 1e6], got {}", shard_gb);
  at_least("train.log_every", log_every, 1);
  at_least("train.stop_after", stop_after, 0, " (never)");
  if (!(grace_seconds >= 0)) fail_usage("[train.grace_seconds] expected 0 (no limit) or more, got {}", grace_seconds);
  guard.validate();
  if (!(ema_decay >= 0 && ema_decay < 1))
    fail_usage("[train.ema_decay] expected a number in [0, 1), got {}", ema_decay);
  if (eval_ema && ema_decay == 0)
    fail_usage("[train.eval_ema] there is no average: set train.ema_decay, for example 0.999");
  at_least("train.early_stop_patience", early_stop_patience, 0, " (never)");
  if (!(early_stop_min_delta >= 0))
    fail_usage("[train.early_stop_min_delta] expected 0 or more, got {}", early_stop_min_delta);
}

RunConfig::RunConfig() : model(make_config(arch)) {}

RunConfig::RunConfig(const RunConfig& other)
    : arch(other.arch),
      preset(other.preset),
      model(other.model->clone()),
      classifier(other.classifier),
      data(other.data),
      optimizer(other.optimizer),
      schedule(other.schedule),
      train(other.train) {}

void RunConfig::visit(config::Visitor& v) {
  v.begin_section("model", "the network");
  static const std::string known = fmt::format("architecture: {}", fmt::join(architectures(), ", "));
  v.field("arch", arch, known.c_str());
  v.field("preset", preset, "a published configuration that the other fields start from; empty: none");
  model->visit(v);
  v.end_section();
  if (train.classifies()) v.section("classifier", classifier, kClassifierHelp);
  v.section("data", data, "token files and how they are cut into batches");
  v.begin_section("optim", "AdamW");
  optimizer.visit(v);
  v.section("schedule", schedule, "the learning rate's course, as multiples of optim.lr");
  v.end_section();
  v.section("train", train, "the run");
}

void RunConfig::validate() const {
  model->validate();
  data.validate();
  optimizer.validate();
  schedule.validate();
  train.validate();
  if (train.eval_every > 0 && data.valid.empty())
    fail_usage("[train.eval_every] is {}, but data.valid is empty; name a corpus there or set eval_every = 0",
               train.eval_every);
  if (train.early_stop_patience > 0 && train.eval_every == 0)
    fail_usage("[train.early_stop_patience] is {}, but train.eval_every is 0; nothing would be evaluated on the way",
               train.early_stop_patience);
  train.classifies() ? validate_classification() : validate_language_modelling();
}

void RunConfig::validate_classification() const {
  classifier.validate();
  if (data.batch * train.accumulate > kMaxCount)
    fail_usage("[data.batch] a step of data.batch {} x train.accumulate {} examples is more than {}", data.batch,
               train.accumulate, kMaxCount);
  if (data.seq_len != DataConfig().seq_len)
    fail_usage(
        "[data.seq_len] is of language models: classifier.max_steps cuts the sequences of examples; leave it out, "
        "got {}",
        data.seq_len);
  if (data.packing != "stream")
    fail_usage("[data.packing] examples are not packed: leave it out, got \"{}\"", data.packing);
  if (train.checkpointing)
    fail_usage(
        "[train.checkpointing] encoders keep their activations: expected false, or a smaller data.batch with "
        "more train.accumulate");
  if (train.sample_every > 0)
    fail_usage("[train.sample_every] classifiers write no text: expected 0, got {}", train.sample_every);
  if (classifier.input != "tokens") return;
  const int64_t vocabulary = data::make_tokenizer(data.tokenizer)->vocabulary();
  if (classifier.vocab_size < vocabulary)
    fail_usage("[classifier.vocab_size] the classifier reads {} tokens, but data.tokenizer = \"{}\" has {}",
               classifier.vocab_size, data.tokenizer, vocabulary);
}

void RunConfig::validate_language_modelling() const {
  int64_t tokens = 0;
  if (__builtin_mul_overflow(data.batch, data.seq_len, &tokens) ||
      __builtin_mul_overflow(tokens, train.accumulate, &tokens) || tokens > kMaxTokensPerStep)
    fail_usage("[data.batch] a step of data.batch {} x data.seq_len {} x train.accumulate {} tokens is more than {}",
               data.batch, data.seq_len, train.accumulate, kMaxTokensPerStep);
  const int64_t vocabulary = data::make_tokenizer(data.tokenizer)->vocabulary();
  if (model->vocabulary() < vocabulary || model->outputs() < vocabulary)
    fail_usage("[model.vocab_size] the model reads {} and predicts {} tokens, but data.tokenizer = \"{}\" has {}",
               model->vocabulary(), model->outputs(), data.tokenizer, vocabulary);
  if (train.eval_tokens > 0 && train.eval_tokens < data.seq_len && !data.valid.empty())
    fail_usage("[train.eval_tokens] expected data.seq_len = {} or more (or 0: all), got {}", data.seq_len,
               train.eval_tokens);
}

RunConfig load_run_config(const fs::path& path, const config::Overrides& overrides) {
  if (!fs::is_regular_file(path)) fail("[{}] no such run file", path.string());
  const Tree tree = config::parse_toml(read_file(path), path.string());
  RunConfig run;
  start_from_defaults(run, tree, overrides);
  config::read(run, tree, overrides, path.string());
  const auto vocabulary = [&]() -> config::Tree {
    return {{"vocab_size", data::make_tokenizer(run.data.tokenizer)->vocabulary()}};
  };
  if (run.train.classifies()) {
    if (run.classifier.input == "tokens" && !gives_vocabulary("classifier", tree, overrides))
      config::read(run.classifier, vocabulary(), {}, "defaults");
  } else if (run.preset.empty() && !gives_vocabulary("model", tree, overrides)) {
    config::read(*run.model, vocabulary(), {}, "defaults");
  }
  run.validate();
  return run;
}

std::string to_toml(const RunConfig& config) {
  return config::to_toml(config::write(config));
}

std::string run_config_help() {
  RunConfig defaults;
  return config::help([&](config::Visitor& v) {
    defaults.visit(v);
    v.section("classifier", defaults.classifier, kClassifierHelp);
  });
}

}  // namespace megalodon
