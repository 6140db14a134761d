#include "eval/published.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "data/loader.h"
#include "eval/document_streams.h"

namespace megalodon {

PublishedReport published_perplexity(Model& model, const data::TokenFile& file, const data::Tokenizer& tokenizer,
                                     const PublishedOptions& options,
                                     const std::function<void(int64_t, int64_t)>& progress) {
  check(options.batch > 0, "[eval] batch: expected at least 1, got {}", options.batch);
  DocumentStreams streams(file, tokenizer);
  streams.add_marks();
  PublishedReport report;
  report.marks = tokenizer.special_tokens();
  std::vector<int64_t> documents;
  for (int64_t d = 0; d < file.documents(); ++d)
    if (streams.length(d) >= 2) documents.push_back(d);
  check(!documents.empty(), "[eval] no text has a token to predict");

  double sum = 0;
  for (size_t first = 0; first < documents.size(); first += static_cast<size_t>(options.batch)) {
    const size_t rows = std::min(documents.size() - first, static_cast<size_t>(options.batch));
    const std::vector<int64_t> batch(documents.begin() + first, documents.begin() + first + rows);
    int64_t longest = 0;
    for (const int64_t d : batch) longest = std::max(longest, streams.length(d));
    const auto read = [&](int64_t begin, int64_t steps) { return streams.read(batch, begin, steps); };
    const auto use = [&](int64_t, const Stretch& stretch, const Tensor& nll_BL) {
      sum += nll_BL.sum(torch::kFloat64).item<double>();
      report.tokens += stretch.targets_BL.ne(data::kIgnoreTarget).sum().item<int64_t>();
    };
    score(model, longest - 1, read, use, options.score);
    report.documents += static_cast<int64_t>(rows);
    if (progress) progress(report.documents, static_cast<int64_t>(documents.size()));
  }
  report.loss = sum / static_cast<double>(report.tokens);
  report.perplexity = std::exp(report.loss);
  return report;
}

std::string format(const PublishedReport& report) {
  const auto mark = [](const char* name, const std::optional<int32_t>& id) {
    return id ? fmt::format("{} {}", name, *id) : fmt::format("no {}", name);
  };
  return fmt::format("{} texts ({}, {}), {} predictions\nloss {:.6f} nats   perplexity {:.6f}\n", report.documents,
                     mark("BOS", report.marks.bos), mark("EOS", report.marks.eos), report.tokens, report.loss,
                     report.perplexity);
}

}  // namespace megalodon
