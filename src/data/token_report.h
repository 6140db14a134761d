// What `data info` says about a token file.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/lengths.h"
#include "data/token_files.h"
#include "data/tokenizer.h"

namespace megalodon::data {

struct TokenReport {
  std::string prefix, dtype, tokenizer, fingerprint;
  std::optional<DocumentMarks> marks;  // none where it is not recorded
  TokenRange range;
  int64_t documents = 0, sequences = 0, tokens = 0, bytes = 0;

  Lengths lengths;  // tokens a document

  struct Sample {
    int64_t document = 0, length = 0;
    std::vector<int64_t> tokens;  // the first of the document
    std::string text;             // what they stand for; "" where no tokenizer is known
  };
  std::vector<Sample> samples;
};

/// With the first `sample_tokens` tokens of `samples` documents, spread evenly over the file. `tokenizer` may be null.
/// progress(bytes done, bytes in total) is called where all tokens have to be read.
TokenReport describe(const TokenFile& file, int64_t samples = 0, int64_t sample_tokens = 0,
                     const Tokenizer* tokenizer = nullptr,
                     const std::function<void(uint64_t, uint64_t)>& progress = {});
/// A few lines for people.
std::string to_text(const TokenReport& report);
nlohmann::ordered_json to_json(const TokenReport& report);

}  // namespace megalodon::data
