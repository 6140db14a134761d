// Perplexity of documents, each as one stream from its first token to its last, and how the loss falls with context.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/token_files.h"
#include "data/tokenizer.h"
#include "infer/score.h"

namespace megalodon {

struct PerplexityOptions {
  int64_t documents = 0;   // at most this many, spread evenly over the corpus; 0: all
  int64_t max_tokens = 0;  // of each document; 0: all of it
  ScoreOptions score;
};

/// Mean negative log likelihood (nats a token) of the tokens whose number of preceding tokens lies in [from, to).
struct ContextBucket {
  int64_t from = 0, to = 0, tokens = 0;
  double loss = 0;
};

struct PerplexityReport {
  int64_t documents = 0, tokens = 0, bytes = 0;  // predicted tokens, and the bytes of text they stand for
  double loss = 0;                               // nats a token
  double perplexity = 0, bits_per_byte = 0;
  std::vector<ContextBucket> by_context;  // bounds are powers of two
};

/// Memory does not grow with the length of a document.
PerplexityReport perplexity(Model& model, const data::TokenFile& file, const data::Tokenizer& tokenizer,
                            const PerplexityOptions& options,
                            const std::function<void(int64_t done, int64_t total)>& progress = {});

/// The report for people.
std::string format(const PerplexityReport& report);

}  // namespace megalodon
