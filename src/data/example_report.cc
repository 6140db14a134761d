#include "data/example_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/utf8.h"

namespace megalodon::data {
namespace {

constexpr size_t kShownText = 400;       // bytes
constexpr size_t kShownClasses = 40;     // in the text for people
constexpr int64_t kMostCounted = 10000;  // classes that are listed at all

ExampleReport::Sample::Sequence sample_sequence(const ExampleFile& file, int64_t example, int64_t sequence,
                                                int64_t most, const Tokenizer* tokenizer) {
  ExampleReport::Sample::Sequence sample;
  sample.length = file.length(example, sequence);
  const auto shown = static_cast<size_t>(std::min(sample.length, most) * file.width());
  if (!file.holds_tokens()) {
    sample.vectors.resize(shown);
    file.read_vectors(example, sequence, sample.vectors);
    return sample;
  }
  sample.tokens.resize(shown);
  file.read_tokens(example, sequence, sample.tokens);
  if (tokenizer != nullptr)
    sample.text = tokenizer->decode_text(std::vector<int32_t>(sample.tokens.begin(), sample.tokens.end()));
  return sample;
}

std::string sequence_text(const ExampleReport::Sample::Sequence& sequence) {
  if (!sequence.text.empty()) return fmt::format("\"{}\"", printable(sequence.text, kShownText));
  if (!sequence.tokens.empty()) return fmt::format("{}", fmt::join(sequence.tokens, " "));
  return fmt::format("{:.4g}", fmt::join(sequence.vectors, " "));
}

}  // namespace

ExampleReport describe(const ExampleFile& file, int64_t samples, int64_t sample_steps, const Tokenizer* tokenizer) {
  ExampleReport report;
  report.path = file.path().string();
  report.type = io::dtype_name(file.type());
  if (file.holds_tokens()) report.tokenizer = tokenizer_text(file.tokenizer());
  report.fingerprint = file.fingerprint();
  report.examples = file.size();
  report.sequences = file.sequences();
  report.width = file.width();
  report.steps = file.steps();
  report.largest_token = file.largest_token();
  check(file.classes() <= kMostCounted, "[data info] '{}' has {} classes, more than {}", report.path, file.classes(),
        kMostCounted);
  for (int64_t i = 0; i < file.classes(); ++i)
    report.classes.push_back(
        {file.class_names().empty() ? std::to_string(i) : file.class_names()[static_cast<size_t>(i)]});
  std::vector<int64_t> lengths;
  for (int64_t example = 0; example < file.size(); ++example) {
    ++report.classes[static_cast<size_t>(file.label(example))].examples;
    for (int64_t sequence = 0; sequence < file.sequences(); ++sequence)
      lengths.push_back(file.length(example, sequence));
  }
  report.lengths = summarize(std::move(lengths));
  samples = std::min(samples, file.size());
  for (int64_t i = 0; i < samples; ++i) {
    const int64_t example = i * file.size() / samples;
    ExampleReport::Sample sample{example, report.classes[static_cast<size_t>(file.label(example))].name, {}};
    for (int64_t sequence = 0; sequence < file.sequences(); ++sequence)
      sample.sequences.push_back(sample_sequence(file, example, sequence, sample_steps, tokenizer));
    report.samples.push_back(std::move(sample));
  }
  return report;
}

std::string to_text(const ExampleReport& report) {
  std::string text =
      fmt::format("examples   {}{}\nsteps      {}\ninput      {}\n", report.examples,
                  report.sequences == 2 ? ", each a pair of sequences" : "", report.steps,
                  report.largest_token >= 0 ? fmt::format("tokens, {}", report.type)
                                            : fmt::format("vectors of {}, {}", report.width, report.type));
  if (report.largest_token >= 0)
    text += fmt::format("tokenizer  {}\nlargest id {}\n", report.tokenizer, report.largest_token);
  text += fmt::format("hash       {}\nsequence length: {}\nclasses    {}:", report.fingerprint, to_text(report.lengths),
                      report.classes.size());
  const size_t shown = std::min(report.classes.size(), kShownClasses);
  for (size_t i = 0; i < shown; ++i)
    text += fmt::format(" {} {}{}", printable(report.classes[i].name), report.classes[i].examples,
                        i + 1 < shown                   ? ","
                        : shown < report.classes.size() ? ", …"
                                                        : "");
  text += '\n';
  for (const ExampleReport::Sample& sample : report.samples) {
    for (const auto& sequence : sample.sequences) {
      text += fmt::format("example {}, {} ({} steps): {}\n", sample.example, printable(sample.label), sequence.length,
                          sequence_text(sequence));
    }
  }
  return text;
}

nlohmann::ordered_json to_json(const ExampleReport& report) {
  nlohmann::ordered_json tree = {{"path", report.path},
                                 {"examples", report.examples},
                                 {"sequences", report.sequences},
                                 {"steps", report.steps},
                                 {"input", report.largest_token >= 0 ? "tokens" : "vectors"},
                                 {"width", report.width},
                                 {"type", report.type},
                                 {"fingerprint", report.fingerprint},
                                 {"sequence_length", to_json(report.lengths)}};
  if (report.largest_token >= 0) tree["tokenizer"] = report.tokenizer, tree["largest_token"] = report.largest_token;
  for (const ExampleReport::Class& one : report.classes)
    tree["classes"].push_back({{"name", one.name}, {"examples", one.examples}});
  for (const ExampleReport::Sample& sample : report.samples) {
    nlohmann::ordered_json entry = {{"example", sample.example}, {"label", sample.label}};
    for (const auto& sequence : sample.sequences) {
      nlohmann::ordered_json shown = {{"length", sequence.length}};
      if (report.largest_token < 0) {
        shown["vectors"] = sequence.vectors;
      } else {
        Utf8Stream stream;
        shown["tokens"] = sequence.tokens;
        shown["text"] = stream.push(sequence.text) + stream.finish();
      }
      entry["sequences"].push_back(std::move(shown));
    }
    tree["samples"].push_back(std::move(entry));
  }
  return tree;
}

}  // namespace megalodon::data
