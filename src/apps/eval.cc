#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "apps/commands.h"
#include "base/check.h"
#include "base/progress.h"
#include "base/temporary_folder.h"
#include "data/corpus.h"
#include "eval/perplexity.h"
#include "eval/published.h"
#include "infer/classify.h"
#include "infer/text_model.h"
#include "models/classifier_folder.h"
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

struct ClassifyOptions {
  std::string model, data, predictions, device = "cpu";
  int64_t batch = 16;
  bool json = false;
};

std::string name_of(const std::vector<std::string>& names, int64_t label) {
  return names.empty() ? std::to_string(label) : names[static_cast<size_t>(label)];
}

/// Those that there is a table of.
int64_t classes_told(const Classification& result) {
  return result.confusion.empty() ? 0 : result.classes;
}

nlohmann::ordered_json to_json(const Classification& result, const std::vector<std::string>& names) {
  nlohmann::ordered_json tree = {{"examples", result.examples}, {"loss", result.loss}, {"accuracy", result.accuracy()}};
  for (int64_t label = 0; label < classes_told(result); ++label) {
    const auto row = result.confusion.begin() + label * result.classes;
    tree["classes"].push_back({{"name", name_of(names, label)},
                               {"examples", result.of_class(label)},
                               {"recall", result.recall(label)},
                               {"precision", result.precision(label)},
                               {"taken_for", std::vector<int64_t>(row, row + result.classes)}});
  }
  return tree;
}

std::string format(const Classification& result, const std::vector<std::string>& names) {
  std::string text = fmt::format("examples  {}\nloss      {:.4f}\naccuracy  {:.2f} %\n", with_commas(result.examples),
                                 result.loss, 100 * result.accuracy());
  if (result.confusion.empty()) return text;
  text +=
      fmt::format("\n{:<16} {:>10} {:>10} {:>10}   most often taken for\n", "class", "examples", "recall", "precision");
  for (int64_t label = 0; label < result.classes; ++label) {
    const auto row = result.confusion.begin() + label * result.classes;
    int64_t other = -1;
    for (int64_t taken = 0; taken < result.classes; ++taken)
      if (taken != label && row[taken] > (other < 0 ? 0 : row[other])) other = taken;
    text += fmt::format("{:<16} {:>10} {:>8.2f} % {:>8.2f} %   {}\n", name_of(names, label),
                        with_commas(result.of_class(label)), 100 * result.recall(label), 100 * result.precision(label),
                        other < 0 ? "" : fmt::format("{} ({})", name_of(names, other), row[other]));
  }
  return text;
}

void run_classify(const ClassifyOptions& options) {
  const LoadedClassifier loaded = load_classifier(options.model);
  loaded.model->to(ops::parse_device(options.device));
  const data::ExampleFile file(options.data);
  check_examples(file, *loaded.model);
  const ClassifierDescription& description = loaded.description;
  if (file.holds_tokens())
    check(file.tokenizer() == description.tokenizer, "[{}] its tokens are of {}, but the classifier's are of {}",
          file.path().string(), file.tokenizer().dump(), description.tokenizer.dump());
  check(file.class_names() == description.class_names, "[{}] its classes are {}, but the classifier's are {}",
        file.path().string(), fmt::join(file.class_names(), ", "), fmt::join(description.class_names, ", "));
  std::optional<AtomicFile> predictions;
  if (!options.predictions.empty()) predictions.emplace(options.predictions);
  Progress progress("classify", "examples");
  constexpr int64_t kMostInTable = 1000;
  const auto result = classify(*loaded.model, file,
                               {.batch = options.batch,
                                .confusion = file.classes() <= kMostInTable,
                                .progress = [&](int64_t done, int64_t total) { progress.update(done, total); },
                                .each =
                                    [&](int64_t example, std::span<const float> log_p) {
                                      if (!predictions) return;
                                      std::vector<double> p;
                                      for (const float value : log_p) p.push_back(std::exp(value));
                                      const auto taken = std::max_element(log_p.begin(), log_p.end()) - log_p.begin();
                                      const nlohmann::ordered_json line = {
                                          {"example", example},
                                          {"label", name_of(description.class_names, file.label(example))},
                                          {"class", name_of(description.class_names, taken)},
                                          {"probabilities", p}};
                                      predictions->write(line.dump() + "\n");
                                    }});
  progress.finish();
  if (predictions) predictions->publish();
  if (options.json)
    fmt::print("{}\n", to_json(*result, description.class_names).dump());
  else
    fmt::print("{}", format(*result, description.class_names));
}

void add_ppl(CLI::App& eval, Common& common) {
  auto* ppl = eval.add_subcommand(
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

void add_classify(CLI::App& eval, Common& common) {
  auto* classify = eval.add_subcommand(
      "classify",
      "Loss and accuracy of a classifier on labelled sequences and, of up to 1,000 classes, what each is taken for");
  auto options = std::make_shared<ClassifyOptions>();
  add_model(*classify, options->model);
  classify->add_option("--data", options->data, "a set of examples, as data examples writes it")->required();
  classify->add_option("--batch", options->batch, "examples of a forward pass; no effect on the result")
      ->check(at_least(1))
      ->capture_default_str();
  classify->add_option("--predictions", options->predictions,
                       "file to write: for every example a JSON line of its label, the class that it is taken for, "
                       "and the probabilities of all");
  add_device(*classify, options->device);
  add_threads(*classify, common);
  classify->add_flag("--json", options->json, "print one JSON object");
  classify->callback([options, &common] {
    use_threads(common.threads);
    run_classify(*options);
  });
}

}  // namespace

void add_eval(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("eval", "Measure a trained model");
  command->require_subcommand(1);
  add_ppl(*command, common);
  add_classify(*command, common);
}

}  // namespace megalodon::apps
