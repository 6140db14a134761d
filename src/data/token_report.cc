#include "data/token_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/utf8.h"
#include "data/token_index.h"

namespace megalodon::data {
namespace {

constexpr size_t kShownBytes = 400;

Lengths lengths_of(const TokenFile& file) {
  std::vector<int64_t> lengths(static_cast<size_t>(file.documents()));
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = file.document_length(static_cast<int64_t>(i));
  return summarize(std::move(lengths));
}

TokenReport::Sample sample_of(const TokenFile& file, int64_t document, int64_t most, const Tokenizer* tokenizer) {
  TokenReport::Sample sample{document, file.document_length(document), {}, {}};
  sample.tokens.resize(static_cast<size_t>(std::min(sample.length, most)));
  file.read(file.document_begin(document), sample.tokens);
  if (tokenizer == nullptr) return sample;
  for (const int64_t token : sample.tokens) {
    check(token >= 0 && token < tokenizer->vocabulary(),
          "[data info] document {} holds token {}, the tokenizer has {}: another one made the file", document, token,
          tokenizer->vocabulary());
  }
  sample.text = tokenizer->decode_text(std::vector<int32_t>(sample.tokens.begin(), sample.tokens.end()));
  return sample;
}

std::string marks_text(const std::optional<DocumentMarks>& marks) {
  if (!marks) return "not recorded";
  if (marks->bos && marks->eos) return "BOS and EOS";
  return marks->bos ? "BOS" : marks->eos ? "EOS" : "none";
}

}  // namespace

TokenReport describe(const TokenFile& file, int64_t samples, int64_t sample_tokens, const Tokenizer* tokenizer,
                     const std::function<void(uint64_t, uint64_t)>& progress) {
  TokenReport report;
  report.prefix = file.prefix().string();
  report.dtype = find_token_dtype(file.dtype_code())->name;
  report.tokenizer = tokenizer_text(file.tokenizer());
  report.fingerprint = file.fingerprint();
  report.marks = file.marks();
  report.range = file.range(progress);
  report.documents = file.documents();
  report.sequences = file.sequences();
  report.tokens = file.tokens();
  report.bytes = static_cast<int64_t>(file.bytes());
  report.lengths = lengths_of(file);
  samples = std::min(samples, file.documents());
  for (int64_t i = 0; i < samples; ++i)
    report.samples.push_back(sample_of(file, i * file.documents() / samples, sample_tokens, tokenizer));
  return report;
}

std::string to_text(const TokenReport& report) {
  std::string text = fmt::format(
      "documents  {}\nsequences  {}\ntokens     {}\ndtype      {}\nbytes      {}\ntokenizer  {}\nmarks      {}\n"
      "largest id {}{}\nhash       {}\n",
      report.documents, report.sequences, report.tokens, report.dtype, report.bytes, report.tokenizer,
      marks_text(report.marks), report.tokens == 0 ? "none" : std::to_string(report.range.largest),
      report.range.smallest < 0 ? fmt::format(", smallest {}", report.range.smallest) : "", report.fingerprint);
  if (report.documents > 0) text += fmt::format("document length: {}\n", to_text(report.lengths));
  for (const TokenReport::Sample& sample : report.samples) {
    text += fmt::format("document {} ({} tokens): ", sample.document, sample.length);
    text += sample.text.empty() ? fmt::format("{}\n", fmt::join(sample.tokens, " "))
                                : fmt::format("\"{}\"\n", printable(sample.text, kShownBytes));
  }
  return text;
}

nlohmann::ordered_json to_json(const TokenReport& report) {
  nlohmann::ordered_json tree = {{"prefix", report.prefix},
                                 {"documents", report.documents},
                                 {"sequences", report.sequences},
                                 {"tokens", report.tokens},
                                 {"dtype", report.dtype},
                                 {"bytes", report.bytes},
                                 {"tokenizer", report.tokenizer},
                                 {"fingerprint", report.fingerprint},
                                 {"prepend_bos", nullptr},
                                 {"append_eos", nullptr},
                                 {"largest_token", report.range.largest},
                                 {"document_length", to_json(report.lengths)}};
  if (report.marks) tree["prepend_bos"] = report.marks->bos, tree["append_eos"] = report.marks->eos;
  if (report.range.smallest < 0) tree["smallest_token"] = report.range.smallest;
  for (const TokenReport::Sample& sample : report.samples) {
    Utf8Stream stream;
    tree["samples"].push_back({{"document", sample.document},
                               {"length", sample.length},
                               {"tokens", sample.tokens},
                               {"text", stream.push(sample.text) + stream.finish()}});
  }
  return tree;
}

}  // namespace megalodon::data
