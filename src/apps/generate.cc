#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <iostream>
#include <iterator>

#include "apps/commands.h"
#include "base/check.h"
#include "base/process.h"
#include "base/utf8.h"
#include "infer/generate.h"
#include "infer/text_model.h"
#include "ops/device.h"

namespace megalodon::apps {
namespace {

struct GenerateOptions {
  std::string model, prompt;
  bool prompt_given = false;
  int64_t tokens = 256, report = 0;
  bool echo = false;
  std::string device = "cpu";
  SamplerConfig sampler;
};

std::string read_prompt(const GenerateOptions& options) {
  if (options.prompt_given) return options.prompt;
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

void run_generate(const GenerateOptions& options) {
  Sampler sampler(options.sampler);
  const TextModel loaded = load_text_model(options.model, ops::parse_device(options.device));
  const std::string text = read_prompt(options);
  const auto ids = loaded.tokenizer->encode(text);
  if (ids.empty()) fail_usage("[generate] the prompt is empty; at least one token is needed to predict the next");

  Utf8Stream utf8;
  Reporter reporter(options.report);
  const auto write = [&](std::string_view bytes) {
    const std::string piece = utf8.push(bytes);
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  };
  if (options.echo)
    write(text);  // through the same stream: a character may begin in the prompt and end in its continuation
  const auto emit = [&](int64_t token) {
    write(loaded.tokenizer->decode(static_cast<int32_t>(token)));
    reporter.token();
    return std::ferror(stdout) == 0;
  };
  generate(*loaded.model, {ids.begin(), ids.end()}, options.tokens, loaded.tokenizer->vocabulary(), sampler, emit);
  fmt::print("{}\n", utf8.finish());
  check(std::ferror(stdout) == 0, "[generate] standard output was closed");
}

}  // namespace

void add_generate(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("generate", "Continue a text with a trained model, in constant memory");
  auto options = std::make_shared<GenerateOptions>();
  command->add_option("--model", options->model, "model folder, or a run folder (its latest checkpoint)")->required();
  auto* prompt = command->add_option("--prompt", options->prompt, "text to continue; without it, standard input");
  command->add_option("--tokens", options->tokens, "tokens to generate; -1: without end")
      ->check(at_least(-1))
      ->capture_default_str();
  command->add_flag("--echo", options->echo, "print the prompt before its continuation");
  command
      ->add_option("--report", options->report,
                   "print time per token and memory to stderr every so many tokens; 0: never")
      ->check(at_least(0))
      ->capture_default_str();
  add_device(*command, options->device);
  add_threads(*command, common);
  add_fields(*command, [options](config::Visitor& v) { options->sampler.visit(v); });
  command->callback([options, prompt, &common] {
    options->prompt_given = prompt->count() > 0;
    use_threads(common.threads);
    run_generate(*options);
  });
}

}  // namespace megalodon::apps
