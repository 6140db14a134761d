// Writes documents as token files, all to one or divided into train, valid and test.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "data/corpus.h"

namespace megalodon::data {

class SplitWriter {
 public:
  struct Options {
    fs::path output;  // prefix of the one pair, or with a split the folder of the parts
    double valid = 0, test = 0;
    uint64_t seed = 0;
  };
  SplitWriter(const Options& options, const Tokenizer& tokenizer);

  /// Empty documents are dropped.
  void add(std::string_view document);
  /// Publishes every part. Throws Error, publishing nothing, where there are fewer documents than parts.
  PrepareResult finish();

 private:
  struct Part {
    std::string name;
    double fraction;
    std::unique_ptr<TokenFileWriter> writer;
    int64_t documents = 0;  // given to this part, written or still waiting
  };
  struct Waiting {
    std::string text;
    size_t part;
  };

  void add_part(std::string name, double fraction);
  size_t draw() const;
  void write_first();
  void fill_empty_parts();

  Options options_;
  const Tokenizer& tokenizer_;
  int64_t documents_ = 0;
  std::vector<Part> parts_;  // train comes first and takes what no other part draws
  // The last documents wait until the end, one per part: enough to give every part that drew none its document.
  std::deque<Waiting> waiting_;
};

}  // namespace megalodon::data
