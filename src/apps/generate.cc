#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/check.h"
#include "base/process.h"
#include "base/utf8.h"
#include "infer/generate.h"
#include "infer/text_model.h"
#include "infer/text_stream.h"
#include "ops/device.h"

namespace megalodon::apps {
namespace {

using Json = nlohmann::ordered_json;

struct GenerateOptions {
  std::string model, prompt, load_state, save_state;
  bool prompt_given = false, seed_given = false;
  int64_t tokens = 256, report = 0;
  int64_t logprobs = -1;      // alternatives to tell of each token; -1: tell nothing
  std::string logprobs_file;  // "": standard error
  bool echo = false;
  std::string device = "cpu", type;
  SamplerConfig sampler;
};

std::string read_prompt(const GenerateOptions& options) {
  if (options.prompt_given || !options.load_state.empty()) return options.prompt;
  if (isatty(STDIN_FILENO)) fail_usage("[generate] no prompt: give --prompt TEXT, or the text on standard input");
  return {std::istreambuf_iterator<char>(std::cin), {}};
}

/// One line to stderr for every `every` tokens: the evidence that neither time nor memory depends on the position.
class Reporter {
 public:
  explicit Reporter(int64_t every) : every_(every) {}
  void token() {
    if (every_ <= 0 || ++position_ % every_ != 0) return;
    fmt::print(stderr, "generate: token {:>10}   {:>8.1f} µs/token   resident {:.1f} MiB\n", with_commas(position_),
               watch_.seconds() / static_cast<double>(every_) * 1e6, static_cast<double>(resident_bytes()) / (1 << 20));
    watch_.restart();
  }

 private:
  int64_t every_, position_ = 0;
  Stopwatch watch_;
};

/// A line of JSON for each token: what the model thought of it.
class LogprobLines {
 public:
  /// `prompt_end`: the index of the first token that is generated.
  LogprobLines(const std::string& path, int64_t top, const data::Tokenizer& tokenizer, int64_t prompt_end)
      : file_(path.empty() ? stderr : std::fopen(path.c_str(), "we")),
        path_(path.empty() ? "standard error" : path),
        top_(top),
        tokenizer_(tokenizer),
        prompt_end_(prompt_end) {
    check(file_ != nullptr, "[logprobs] cannot open '{}': {}", path_, std::strerror(errno));
  }
  ~LogprobLines() {
    if (file_ != stderr) std::fclose(file_);
  }
  LogprobLines(const LogprobLines&) = delete;
  LogprobLines& operator=(const LogprobLines&) = delete;

  void write(int64_t index, int64_t token, std::span<const float> logits_V) {
    const Logprobs of = logprobs(logits_V, token, top_);
    Json line = {{"index", index}, {"prompt", index < prompt_end_}};
    line.update(describe({token, of.logprob}));
    line["top"] = Json::array();
    for (const TokenLogprob& alternative : of.top) line["top"].push_back(describe(alternative));
    const std::string text = line.dump() + "\n";
    // Read along while the stream goes on, and complete when it is stopped.
    const bool written = std::fwrite(text.data(), 1, text.size(), file_) == text.size() && std::fflush(file_) == 0;
    check(written, "[logprobs] cannot write to '{}': {}", path_, std::strerror(errno));
  }

 private:
  /// Part of a character is not text: it shows as U+FFFD. What is impossible has the logarithm null.
  Json describe(const TokenLogprob& of) const {
    Utf8Stream utf8;
    std::string text = utf8.push(tokenizer_.decode(static_cast<int32_t>(of.token)));
    text += utf8.finish();
    return {{"token", of.token}, {"text", text}, {"logprob", of.logprob}};
  }

  std::FILE* file_;
  std::string path_;
  int64_t top_;
  const data::Tokenizer& tokenizer_;
  int64_t prompt_end_;
};

ObserveToken observe_logprobs(const GenerateOptions& options, const data::Tokenizer& tokenizer, int64_t prompt_end) {
  if (options.logprobs < 0) return {};
  const auto lines = std::make_shared<LogprobLines>(options.logprobs_file, options.logprobs, tokenizer, prompt_end);
  return
      [lines](int64_t index, int64_t token, std::span<const float> logits_V) { lines->write(index, token, logits_V); };
}

/// Where the text begins, or goes on.
TextStream start_text(const GenerateOptions& options, const Engine& engine, const data::Tokenizer& tokenizer) {
  if (options.load_state.empty()) return {{}, Sampler(options.sampler)};
  TextStream text = load_text_stream(options.load_state, engine, tokenizer, options.sampler);
  if (options.seed_given) text.sampler.reseed(options.sampler.seed);
  return text;
}

void run_generate(const GenerateOptions& options) {
  const Sampler valid(options.sampler);
  const TextModel loaded = load_text_model(options.model, ops::parse_device(options.device), chosen_type(options.type));
  const Engine engine(*loaded.model);
  TextStream text = start_text(options, engine, *loaded.tokenizer);
  const std::string prompt = read_prompt(options);
  const auto ids = loaded.tokenizer->encode(prompt);
  if (ids.empty() && text.stream.tokens() == 0)
    fail_usage("[generate] the prompt is empty; at least one token is needed to predict the next");

  Reporter reporter(options.report);
  const auto write = [&](std::string_view bytes) { show(text.utf8.push(bytes)); };
  if (options.echo)
    write(prompt);  // through the same stream: a character may begin in the prompt and end in its continuation
  else if (!prompt.empty())
    show(text.utf8.finish());  // nor does one that was begun before an unseen prompt end behind it
  const auto emit = [&](int64_t token) {
    write(loaded.tokenizer->decode(static_cast<int32_t>(token)));
    reporter.token();
    return std::ferror(stdout) == 0;
  };
  generate(engine, text.stream, {ids.begin(), ids.end()}, options.tokens, loaded.tokenizer->vocabulary(), text.sampler,
           emit, observe_logprobs(options, *loaded.tokenizer, text.stream.tokens() + std::ssize(ids)));
  if (options.save_state.empty())
    show(text.utf8.finish());
  else  // a character that is not complete is part of what goes on
    save_text_stream(options.save_state, engine, *loaded.tokenizer, text);
  show("\n");
  check(std::ferror(stdout) == 0, "[generate] standard output was closed");
}

}  // namespace

void add_generate(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("generate", "Continue a text with a trained model, in constant memory");
  auto options = std::make_shared<GenerateOptions>();
  command->footer(kSamplerHelp);
  add_model(*command, options->model);
  auto* prompt =
      command->add_option("--prompt", options->prompt, "text to continue; without it and --load-state, standard input");
  command->add_option("--tokens", options->tokens, "tokens to generate; -1: without end")
      ->check(at_least(-1))
      ->capture_default_str();
  command
      ->add_option(
          "--load-state", options->load_state,
          "go on with a stream where --save-state left it: nothing of its past is read again; draws go on with "
          "the seed of the file, or with --seed where that is given, for another continuation; --prompt, where "
          "given, comes next")
      ->type_name("FILE");
  command
      ->add_option(
          "--save-state", options->save_state,
          "write the stream to this file in the end, after the last token; a character that is not complete is "
          "kept for --load-state to print")
      ->type_name("FILE");
  command->add_flag("--echo", options->echo, "print the prompt before its continuation");
  command
      ->add_option("--report", options->report,
                   "print time per token and memory to stderr every so many tokens; 0: never")
      ->check(at_least(0))
      ->capture_default_str();
  auto* logprobs = command
                       ->add_option("--logprobs", options->logprobs,
                                    "tell the natural logarithm of the probability that the model gave each token "
                                    "of prompt (but the first) and output, and the N likeliest tokens, as lines of "
                                    "JSON: by the model's own logits, before anything that sampling does to them")
                       ->check(at_least(0))
                       ->type_name("N");
  command
      ->add_option("--logprobs-file", options->logprobs_file,
                   "where --logprobs tells it, replacing what is there; without this, standard error")
      ->needs(logprobs);
  add_type(*command, options->type);
  add_device(*command, options->device);
  add_threads(*command, common);
  add_fields(*command, [options](config::Visitor& v) { options->sampler.visit(v); });
  command->callback([options, prompt, seed = command->get_option("--seed"), &common] {
    options->prompt_given = prompt->count() > 0;
    options->seed_given = seed->count() > 0;
    use_threads(common.threads);
    run_generate(*options);
  });
}

}  // namespace megalodon::apps
