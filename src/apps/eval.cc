#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "eval/perplexity.h"
#include "infer/text_model.h"

namespace megalodon::apps {
namespace {

struct PplOptions {
  std::string model, data;
  PerplexityOptions perplexity;
  bool published_long_inference = false, json = false;
};

nlohmann::ordered_json to_json(const PerplexityReport& report) {
  nlohmann::ordered_json tree = {{"documents", report.documents},   {"tokens", report.tokens},
                                 {"bytes", report.bytes},           {"loss", report.loss},
                                 {"perplexity", report.perplexity}, {"bits_per_byte", report.bits_per_byte}};
  for (const ContextBucket& b : report.by_context)
    tree["by_context"].push_back({{"from", b.from}, {"to", b.to}, {"tokens", b.tokens}, {"loss", b.loss}});
  return tree;
}

void run_ppl(const PplOptions& options) {
  const TextModel loaded = load_text_model(options.model);
  const data::TokenFile file(options.data);
  data::check_tokenizer(file, *loaded.tokenizer);
  PerplexityOptions settings = options.perplexity;
  if (options.published_long_inference) settings.score = published_long_inference(*loaded.model);
  Progress progress("eval", "tokens");
  const auto report = perplexity(*loaded.model, file, *loaded.tokenizer, settings,
                                 [&](int64_t done, int64_t total) { progress.update(done, total); });
  progress.finish();
  fmt::print("{}\n", options.json ? to_json(report).dump() : format(report));
}

}  // namespace

void add_eval(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("eval", "Measure a trained model");
  command->require_subcommand(1);
  auto* ppl = command->add_subcommand(
      "ppl", "Loss, perplexity and bits per byte of documents, each read as one stream, by context length");
  auto options = std::make_shared<PplOptions>();
  ppl->add_option("--model", options->model, "model folder, or a run folder (its latest checkpoint)")->required();
  ppl->add_option("--data", options->data, "prefix of a .bin/.idx pair")->required();
  ppl->add_option("--documents", options->perplexity.documents,
                  "score at most this many, spread over the corpus; 0: all")
      ->capture_default_str();
  ppl->add_option("--max-tokens", options->perplexity.max_tokens,
                  "score at most this many tokens of each document; 0: all")
      ->capture_default_str();
  ppl->add_option("--stretch", options->perplexity.score.stretch, "tokens per forward pass; no effect on the result")
      ->capture_default_str();
  ppl->add_flag(
      "--published-long-inference", options->published_long_inference,
      "as the published evaluator does with long inputs: calls of two chunks, and from the eighth chunk on norm "
      "statistics of the last six chunks only");
  ppl->add_flag("--json", options->json, "print one JSON object");
  ppl->callback([options, &common] {
    use_threads(common.threads);
    run_ppl(*options);
  });
}

}  // namespace megalodon::apps
