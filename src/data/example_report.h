// What `data info` says about a file of labelled sequences.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "data/examples.h"
#include "data/lengths.h"
#include "data/tokenizer.h"

namespace megalodon::data {

struct ExampleReport {
  std::string path, type, tokenizer, fingerprint;  // `tokenizer` is "" for vectors
  int64_t examples = 0, sequences = 0, width = 0, steps = 0, largest_token = -1;
  Lengths lengths;  // steps a sequence

  struct Class {
    std::string name;  // its number where it has none
    int64_t examples = 0;
  };
  std::vector<Class> classes;

  struct Sample {
    int64_t example = 0;
    std::string label;
    struct Sequence {
      int64_t length = 0;
      std::vector<int64_t> tokens;  // the first; or
      std::vector<float> vectors;
      std::string text;  // what the tokens stand for; "" where no tokenizer is known
    };
    std::vector<Sequence> sequences;
  };
  std::vector<Sample> samples;
};

/// With the first `sample_steps` steps of the sequences of `samples` examples, spread evenly over the file. `tokenizer`
/// may be null; Error where another one made the file.
ExampleReport describe(const ExampleFile& file, int64_t samples = 0, int64_t sample_steps = 0,
                       const Tokenizer* tokenizer = nullptr);
/// A few lines for people.
std::string to_text(const ExampleReport& report);
nlohmann::ordered_json to_json(const ExampleReport& report);

}  // namespace megalodon::data
