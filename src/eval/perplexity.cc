#include "eval/perplexity.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/check.h"
#include "eval/document_streams.h"

namespace megalodon {
namespace {

constexpr int64_t kFirstBound = 64;  // contexts below this are one row of the table

/// 0 for contexts below 64, 1 for [64, 128), 2 for [128, 256), …
size_t bucket_of(int64_t context) {
  return std::bit_width(static_cast<uint64_t>(context / kFirstBound));
}

/// The documents to score, each with how many of its tokens: those with at least one token to predict.
std::vector<std::pair<int64_t, int64_t>> choose(const data::TokenFile& file, const PerplexityOptions& options) {
  std::vector<std::pair<int64_t, int64_t>> usable;
  for (int64_t d = 0; d < file.documents(); ++d) {
    int64_t length = file.document_length(d);
    if (options.max_tokens > 0) length = std::min(length, options.max_tokens + 1);
    if (length >= 2) usable.emplace_back(d, length);
  }
  check(!usable.empty(), "[eval] no document has two tokens or more: there is nothing to predict");
  const auto count = static_cast<int64_t>(usable.size());
  const int64_t wanted = options.documents > 0 ? std::min(options.documents, count) : count;
  std::vector<std::pair<int64_t, int64_t>> chosen;
  for (int64_t i = 0; i < wanted; ++i) chosen.push_back(usable[i * count / wanted]);
  return chosen;
}

/// Adds one document's negative log likelihoods to the report, whose losses are sums until finish().
void add(PerplexityReport& report, int64_t begin, const Stretch& stretch, const Tensor& nll_BL,
         const data::Tokenizer& tokenizer) {
  const Tensor nll = nll_BL.to(torch::kCPU, torch::kFloat64).contiguous();
  const auto* values = nll.data_ptr<double>();
  const auto* targets = stretch.targets_BL.data_ptr<int64_t>();
  for (int64_t i = 0; i < nll.numel(); ++i) {
    const size_t bucket = bucket_of(begin + i + 1);  // so many tokens precede the predicted one
    if (bucket >= report.by_context.size()) report.by_context.resize(bucket + 1);
    report.by_context[bucket].loss += values[i];
    report.by_context[bucket].tokens += 1;
    report.bytes += static_cast<int64_t>(tokenizer.decode(static_cast<int32_t>(targets[i])).size());
    report.loss += values[i];
  }
  report.tokens += nll.numel();
}

void finish(PerplexityReport& report) {
  for (size_t i = 0; i < report.by_context.size(); ++i) {
    ContextBucket& bucket = report.by_context[i];
    bucket.from = i == 0 ? 1 : kFirstBound << (i - 1);
    bucket.to = kFirstBound << i;
    if (bucket.tokens > 0) bucket.loss /= static_cast<double>(bucket.tokens);
  }
  report.bits_per_byte = report.loss / std::log(2.0) / static_cast<double>(report.bytes);
  report.loss /= static_cast<double>(report.tokens);
  report.perplexity = std::exp(report.loss);
}

}  // namespace

PerplexityReport perplexity(Model& model, const data::TokenFile& file, const data::Tokenizer& tokenizer,
                            const PerplexityOptions& options, const std::function<void(int64_t, int64_t)>& progress) {
  PerplexityReport report;
  const DocumentStreams streams(file, tokenizer);
  const auto chosen = choose(file, options);
  int64_t total = 0;
  for (const auto& [document, length] : chosen) total += length - 1;
  for (const auto& [document, length] : chosen) {
    const auto read = [&, d = document](int64_t begin, int64_t steps) { return streams.read({d}, begin, steps); };
    const auto use = [&](int64_t begin, const Stretch& stretch, const Tensor& nll_BL) {
      add(report, begin, stretch, nll_BL, tokenizer);
      if (progress) progress(report.tokens, total);
    };
    score(model, length - 1, read, use, options.score);
    report.documents += 1;
  }
  finish(report);
  return report;
}

std::string format(const PerplexityReport& report) {
  std::string text = fmt::format(
      "{} documents, {} tokens, {} bytes\nloss {:.4f} nats/token   perplexity {:.3f}   {:.4f} bits per byte\n\n"
      "  context (tokens before)      tokens      loss   bits/byte\n",
      report.documents, report.tokens, report.bytes, report.loss, report.perplexity, report.bits_per_byte);
  const double bytes_per_token = static_cast<double>(report.bytes) / static_cast<double>(report.tokens);
  for (const ContextBucket& bucket : report.by_context)
    if (bucket.tokens > 0)
      text += fmt::format("  {:>9} – {:<9} {:>12} {:>9.4f} {:>11.4f}\n", bucket.from, bucket.to - 1, bucket.tokens,
                          bucket.loss, bucket.loss / std::log(2.0) / bytes_per_token);
  return text;
}

}  // namespace megalodon
