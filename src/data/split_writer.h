// Writes documents as token files, all to one or divided into train, valid and test; on the way they may be shuffled
// and rid of copies.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/hash.h"
#include "base/output_folder.h"
#include "data/spill_buffer.h"
#include "data/token_files.h"
#include "data/tokenizer.h"

namespace megalodon::data {

/// What was written.
struct WrittenPart {
  std::string name;  // "train", "valid", "test"; "" without a split
  int64_t documents = 0, tokens = 0;
};

class SplitWriter {
 public:
  struct Options {
    fs::path output;  // prefix of the one pair, or with a split the folder of the parts
    double valid = 0, test = 0;
    uint64_t seed = 0;         // of split and shuffle
    bool dedupe = false;       // drops documents whose hash came before; about 40 bytes of memory a document
    DocumentMarks marks = {};  // that the documents have
    bool shuffle = false;      // keeps all tokens in a temporary file first, and 9 bytes of memory a document
  };
  SplitWriter(const Options& options, const Tokenizer& tokenizer);

  /// A whole document.
  void add(std::string_view text);
  /// Tokens, as store() puts them, of the document that end_document() ends. One without tokens is dropped.
  void append(std::string_view stored);
  void end_document(Hash128 hash_of_text);
  const TokenStore& store() const { return store_; }
  int64_t duplicates() const { return duplicates_; }
  /// Documents that were dropped because they have no tokens.
  int64_t empty() const { return empty_; }
  /// What a killed run to the same output had left.
  const Removed& abandoned() const { return abandoned_; }

  /// Publishes every part. Throws Error, publishing nothing, where there are fewer documents than parts. While it
  /// shuffles it calls progress(bytes done, bytes in total).
  std::vector<WrittenPart> finish(const std::function<void(uint64_t, uint64_t)>& progress = {});

 private:
  struct Part {
    std::string name;
    std::unique_ptr<TokenFileWriter> writer;
    int64_t documents = 0;  // given to this part, written or still waiting
  };
  struct Waiting {
    SpillBuffer stored;
    size_t part;
  };
  struct HashOf {
    size_t operator()(const Hash128& hash) const { return static_cast<size_t>(hash.low); }
  };

  bool is_split() const { return options_.valid > 0 || options_.test > 0; }
  bool is_ours(std::string_view name) const;
  void add_part(std::string name, double fraction);
  void write_first();
  void write_shuffled(const std::function<void(uint64_t, uint64_t)>& progress);
  void fill_empty_parts();

  Options options_;
  const Tokenizer& tokenizer_;
  TokenStore store_;
  OutputFolder folder_;
  fs::path spill_;  // what does not fit in memory goes to files there whose names begin so
  int64_t documents_ = 0, duplicates_ = 0, empty_ = 0;
  Removed abandoned_;
  std::vector<Part> parts_;        // train comes first and takes what no other part draws
  std::vector<double> fractions_;  // theirs
  SpillBuffer open_;               // the document that is being put together
  // The last documents wait until the end, one per part: enough to give every part that drew none its document.
  std::deque<Waiting> waiting_;
  std::unordered_set<Hash128, HashOf> seen_;
  // To be shuffled: all documents one after another, where each ends, and its part.
  SpillBuffer spool_;
  std::vector<uint64_t> spool_ends_;
  std::vector<uint8_t> spool_parts_;
};

}  // namespace megalodon::data
