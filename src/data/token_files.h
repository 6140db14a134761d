// Token data on disk: Megatron's .bin (tokens, no header) and .idx (lengths, offsets, documents).
//
//   .idx: "MMIDIDX\0\0" | u64 version 1 | u8 dtype code | u64 sequences | u64 documents + 1 | i32 length of each
//   sequence
//         | i64 byte offset of each sequence in .bin | i64 first sequence of each document, then the number of
//         sequences
//   dtype codes: 1 u8, 2 i8, 3 i16, 4 i32, 5 i64, 8 u16
//
// We write one sequence per document (several where it is longer than a sequence can be); any file of the format is
// read. Files of ours come with a third one that says which tokenizer made them (token_sidecar.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "data/token_index.h"
#include "data/token_range.h"

namespace megalodon::data {

class Tokenizer;

/// What a split may consist of: the names of its token files.
inline constexpr const char* kParts[] = {"train", "valid", "test"};

/// The tokenizer's special tokens that every document has.
struct DocumentMarks {
  bool bos = false, eos = false;  // at its beginning, at its end
  bool operator==(const DocumentMarks&) const = default;
};

/// The prefix of the pair that `path` names: itself, or without ".bin" or ".idx".
fs::path token_prefix(const fs::path& path);

/// How tokens lie in .bin: as u8 for vocabularies up to 256, u16 below 65,500, else i32.
class TokenStore {
 public:
  explicit TokenStore(int64_t vocabulary);
  int code() const { return code_; }
  size_t width() const { return width_; }  // bytes per token
  int64_t vocabulary() const { return vocabulary_; }
  /// Appends tokens as they are stored. Throws Error for one that is not in [0, vocabulary).
  void put(std::span<const int32_t> tokens, std::string& out) const;

 private:
  int64_t vocabulary_;
  int code_;
  size_t width_;
};

/// Writes <prefix>.bin, <prefix>.idx and, where the tokenizer is known, <prefix>.json. Keeps 4 bytes a document in
/// memory. Nothing is published before finish(), and .idx last: where it is, the others are too.
class TokenFileWriter {
 public:
  /// The format's sequences hold 2^31 - 1 tokens (tests lower that): a longer document becomes several.
  TokenFileWriter(const fs::path& prefix, int64_t vocabulary, int64_t longest_sequence = kLongestSequence);
  /// Throws Error where <prefix>.json is a file of another kind, which would be lost.
  TokenFileWriter(const fs::path& prefix, const Tokenizer& tokenizer, DocumentMarks marks = {});
  ~TokenFileWriter();
  /// The document may be empty.
  void add_document(std::span<const int32_t> tokens);
  /// The same in pieces of tokens as TokenStore has put them.
  void append(std::string_view stored);
  void end_document() { end_sequence(); }

  const TokenStore& store() const { return store_; }
  int64_t tokens() const { return tokens_; }
  int64_t documents() const { return static_cast<int64_t>(lengths_.size() - continued_.size()); }
  void finish();
  /// Publishes all of `writers` or, where a disk fills up, none. The indexes come last and in reverse order: whoever
  /// finds the first writer's finds a complete set, and never one part of an older set beside one of this.
  /// Where the set is the split in the folder `split`, parts that an older one had there and this one has not go.
  static void finish_together(std::span<TokenFileWriter* const> writers, const fs::path& split = {});

 private:
  static constexpr int64_t kLongestSequence = std::numeric_limits<int32_t>::max();

  void end_sequence();
  void seal();
  void publish_tokens();

  fs::path prefix_;
  TokenStore store_;
  int64_t longest_;
  int64_t tokens_ = 0;
  int64_t open_ = 0;                                   // tokens of the sequence that is being written
  std::vector<int32_t> lengths_;                       // of the sequences
  std::vector<size_t> continued_;                      // sequences whose document goes on with the next one
  std::string scratch_;                                // one document as it is stored
  std::unique_ptr<nlohmann::ordered_json> tokenizer_;  // describe(), or null
  DocumentMarks marks_;
  TokenRange range_;                     // of all tokens
  std::unique_ptr<AtomicFile> sidecar_;  // from seal() on
  AtomicFile bin_, idx_;
};

/// A read-only memory-mapped corpus. Every number of the .idx file is checked on opening.
class TokenFile {
 public:
  explicit TokenFile(const fs::path& prefix);  // with or without ".bin" / ".idx"
  int64_t tokens() const { return index_.document_begin.back(); }
  int64_t documents() const { return static_cast<int64_t>(index_.document_begin.size()) - 1; }
  /// Position of the document's first token in the concatenation of all documents.
  int64_t document_begin(int64_t document) const { return index_.document_begin.at(document); }
  int64_t document_length(int64_t document) const { return document_begin(document + 1) - document_begin(document); }
  /// The document that token `position` of the concatenation belongs to (documents may be empty).
  int64_t document_of(int64_t position) const;
  /// Copies tokens [position, position + out.size()) of the concatenation of all documents.
  void read(int64_t position, std::span<int64_t> out) const;
  /// What wrote the tokens, as Tokenizer::describe() says it; null where no file beside them tells (Megatron's do not).
  const nlohmann::ordered_json& tokenizer() const { return *tokenizer_; }
  /// Whether its documents begin and end with the tokenizer's marks; none where no file beside them tells.
  std::optional<DocumentMarks> marks() const { return marks_; }
  /// Of all ids in the documents. The file beside the tokens may say it; else all of them are read, and
  /// progress(bytes done, bytes in total) is called.
  TokenRange range(const std::function<void(uint64_t, uint64_t)>& progress = {}) const;
  int dtype_code() const { return index_.dtype_code; }
  int64_t sequences() const { return static_cast<int64_t>(index_.sequence_begin.size()) - 1; }
  const fs::path& prefix() const { return prefix_; }
  /// Size of .bin.
  size_t bytes() const { return bin_.bytes().size(); }
  /// Of .idx and .bin: data_fingerprint().
  std::string fingerprint() const;

 private:
  void read_description();

  fs::path prefix_;
  MappedFile bin_;
  TokenIndex index_;
  uint64_t index_hash_ = 0;
  std::shared_ptr<const nlohmann::ordered_json> tokenizer_;
  std::optional<DocumentMarks> marks_;
  std::optional<int64_t> largest_token_;
};

/// Throws Error, naming both, where the file says that another tokenizer made it. Files that say nothing pass.
void check_tokenizer(const TokenFile& file, const Tokenizer& tokenizer);

}  // namespace megalodon::data
