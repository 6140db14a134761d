// From text to token files: `data prepare` and `data get`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/token_files.h"
#include "data/tokenizer.h"

namespace megalodon::data {

struct PrepareOptions {
  std::vector<fs::path> inputs;  // text files; a folder stands for the .txt files below it, in order of name
  fs::path output;               // prefix of the .bin/.idx pair, or with a split the folder of train, valid, test
  std::string separator;         // separates the documents of one file and belongs to none; empty: one per file
  double valid = 0, test = 0;    // fractions of the documents, drawn by a hash of the document's number and the seed
  uint64_t seed = 0;
};

struct PrepareResult {
  struct Part {
    std::string name;  // "train", "valid", "test"; "" without a split
    int64_t documents = 0, tokens = 0;
  };
  std::vector<Part> parts;
};

/// Text is taken as bytes. Documents are streamed: memory grows with the longest document, not with the input; empty
/// ones are dropped. With a split every part gets a document at least; Error where there are fewer documents than
/// parts. Nothing is published unless everything succeeds. `progress(bytes_done, bytes_total)` is called now and then.
PrepareResult prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                      const std::function<void(uint64_t, uint64_t)>& progress = {});

/// Debian's dict-gcide package (the GNU Collaborative International Dictionary of English, about 40 MB) as
/// <folder>/{train,valid,test}. A document is a run of consecutive entries of about 64 KiB; 1 in 50
/// goes to valid and to test each. `source` is normally kGcideSource.
inline constexpr const char* kGcideSource = "/usr/share/dictd/gcide.dict.dz";
PrepareResult get_gcide(const fs::path& folder, const Tokenizer& tokenizer, const fs::path& source = kGcideSource,
                        const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace megalodon::data
