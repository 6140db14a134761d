#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "base/temporary_folder.h"
#include "data/corpus.h"
#include "eval/perplexity.h"
#include "eval/published.h"
#include "infer/text_model.h"
#include "ops/device.h"

namespace megalodon::apps {
namespace {

struct PplOptions {
  std::string model, data, device = "cpu", type;
  std::vector<fs::path> text;
  PerplexityOptions perplexity;
  int64_t batch = 1;
  bool published = false, published_long_inference = false, json = false;
};

nlohmann::ordered_json to_json(const PerplexityReport& report) {
  nlohmann::ordered_json tree = {{"documents", report.documents},   {"tokens", report.tokens},
                                 {"bytes", report.bytes},           {"loss", report.loss},
                                 {"perplexity", report.perplexity}, {"bits_per_byte", report.bits_per_byte}};
  for (const ContextBucket& b : report.by_context)
    tree["by_context"].push_back({{"from", b.from}, {"to", b.to}, {"tokens", b.tokens}, {"loss", b.loss}});
  return tree;
}

nlohmann::ordered_json to_json(const PublishedReport& report) {
  nlohmann::ordered_json tree = {{"published", true},
                                 {"documents", report.documents},
                                 {"tokens", report.tokens},
                                 {"loss", report.loss},
                                 {"perplexity", report.perplexity}};
  if (report.marks.bos) tree["bos"] = *report.marks.bos;
  if (report.marks.eos) tree["eos"] = *report.marks.eos;
  return tree;
}

void print(const auto& report, bool json) {
  fmt::print("{}\n", json ? to_json(report).dump() : format(report));
}

void evaluate_file(const PplOptions& options, Model& model, const data::Tokenizer& tokenizer, const fs::path& prefix) {
  const data::TokenFile file(prefix);
  data::check_tokenizer(file, tokenizer);
  ScoreOptions score = options.perplexity.score;
  if (options.published_long_inference) score = published_long_inference(model);
  Progress progress("eval", options.published ? "texts" : "tokens");
  const auto show = [&](int64_t done, int64_t total) { progress.update(done, total); };
  if (options.published) {
    const auto report = published_perplexity(model, file, tokenizer, {options.batch, score}, show);
    progress.finish();
    return print(report, options.json);
  }
  PerplexityOptions settings = options.perplexity;
  settings.score = score;
  const auto report = perplexity(model, file, tokenizer, settings, show);
  progress.finish();
  print(report, options.json);
}

void run_ppl(const PplOptions& options) {
  if (options.data.empty() == options.text.empty())
    fail_usage("[eval ppl] expected either --data, a prepared corpus, or --text, files of text");
  const TextModel loaded = load_text_model(options.model, ops::parse_device(options.device), chosen_type(options.type));
  if (options.text.empty()) return evaluate_file(options, *loaded.model, *loaded.tokenizer, options.data);
  const TemporaryFolder folder;
  data::PrepareOptions prepare;
  prepare.inputs = options.text, prepare.output = folder.path() / "text";
  data::prepare(prepare, *loaded.tokenizer);
  evaluate_file(options, *loaded.model, *loaded.tokenizer, prepare.output);
}

}  // namespace

void add_eval(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("eval", "Measure a trained model");
  command->require_subcommand(1);
  auto* ppl = command->add_subcommand(
      "ppl", "Loss, perplexity and bits per byte of documents, each read as one stream, by context length");
  auto options = std::make_shared<PplOptions>();
  add_model(*ppl, options->model);
  ppl->add_option("--data", options->data, "prefix of a .bin/.idx pair");
  ppl->add_option("--text", options->text,
                  "instead of --data: what data prepare takes, prepared in a temporary folder");
  auto* documents = ppl->add_option("--documents", options->perplexity.documents,
                                    "score at most this many, spread over the corpus; 0: all")
                        ->check(at_least(0))
                        ->capture_default_str();
  auto* max_tokens = ppl->add_option("--max-tokens", options->perplexity.max_tokens,
                                     "score at most this many tokens of each document; 0: all")
                         ->check(at_least(0))
                         ->capture_default_str();
  auto* stretch = ppl->add_option("--stretch", options->perplexity.score.stretch,
                                  "tokens per forward pass; no effect on the result")
                      ->check(at_least(1))
                      ->capture_default_str();
  auto* published = ppl->add_flag("--published", options->published,
                                  "as the published evaluator: BOS and EOS around every text (where the tokenizer has "
                                  "them and the data lacks them), padded batches, loss "
                                  "and perplexity alone");
  published->excludes(documents)->excludes(max_tokens);
  ppl->add_option("--batch", options->batch, "with --published: texts of a forward pass; no effect on the result")
      ->check(at_least(1))
      ->capture_default_str()
      ->needs(published);
  ppl->add_flag(
         "--published-long-inference", options->published_long_inference,
         "as the published evaluator does with long inputs: calls of two chunks, and from the eighth chunk on norm "
         "statistics of the last six chunks only")
      ->excludes(stretch);
  add_type(*ppl, options->type);
  add_device(*ppl, options->device);
  add_threads(*ppl, common);
  ppl->add_flag("--json", options->json, "print one JSON object");
  ppl->callback([options, &common] {
    use_threads(common.threads);
    run_ppl(*options);
  });
}

}  // namespace megalodon::apps
