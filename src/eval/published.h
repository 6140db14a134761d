// Perplexity as the published code measures it: every text between BOS and EOS, predicted from its first token to its
// last, several texts in a batch that is filled up on the right, and what fills it ignored.
#pragma once

#include <functional>
#include <string>

#include "data/token_files.h"
#include "data/tokenizer.h"
#include "infer/score.h"

namespace megalodon {

struct PublishedOptions {
  int64_t batch = 1;   // texts of a forward pass
  ScoreOptions score;  // published_long_inference() for its treatment of long texts, which is off otherwise
};

struct PublishedReport {
  data::SpecialTokens marks;          // of which bos and eos stand around every text
  int64_t documents = 0, tokens = 0;  // texts with something to predict, and predictions
  double loss = 0, perplexity = 0;    // nats a prediction, and its exponential
};

/// Marks that the documents of `file` lack are added. A tokenizer that lacks one, as that of bytes does, adds none:
/// then a text's first token is not predicted, and where there is no EOS neither is its end. The batch has no influence
/// on the loss, but for published_long_inference(): what counts there is the length of the batch's longest text.
PublishedReport published_perplexity(Model& model, const data::TokenFile& file, const data::Tokenizer& tokenizer,
                                     const PublishedOptions& options,
                                     const std::function<void(int64_t done, int64_t total)>& progress = {});

/// The report for people.
std::string format(const PublishedReport& report);

}  // namespace megalodon
