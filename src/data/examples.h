// Labelled sequences on disk, what a classifier learns from: one safetensors file PREFIX.safetensors.
//
//   ends    I64 [S]                where each sequence ends in `values`; S is the number of examples, or twice it where
//                                  an example is a pair
//   labels  I32 [N]                the class of each example
//   values  U8, U16, I32 [T]       the steps of all sequences, one after another: tokens, or
//           U8, I16, F32 [T, I]    vectors of I numbers ([T]: of one). A U8 stands for v/255, an I16 for v/32768
//
//   metadata: "format": "megalodon.cpp examples", "format_version": "1", "input": "tokens" | "vectors", "classes": the
//   list of their names as JSON, or their number where they have none; for tokens also "tokenizer":
//   Tokenizer::describe() as JSON, and "largest_token"
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "data/spill_buffer.h"
#include "data/token_files.h"
#include "data/token_range.h"
#include "io/tensor_file.h"

namespace megalodon::data {

struct Classes {
  int64_t count = 0;
  std::vector<std::string> names = {};  // one each, or none
};

/// The prefix of the file that `path` names: itself, or without ".safetensors".
fs::path example_prefix(const fs::path& path);
/// Whether there is a safetensors file of that prefix that says it holds examples.
bool is_example_file(const fs::path& prefix);

/// Read-only and memory-mapped. Ends, labels and metadata are checked on opening, values where they are read.
class ExampleFile {
 public:
  explicit ExampleFile(const fs::path& prefix);  // with or without ".safetensors"
  /// What was read from `path`, which is for messages.
  ExampleFile(io::TensorFile content, fs::path path);

  int64_t size() const { return static_cast<int64_t>(labels_.size()); }
  /// Of an example: 1, or 2 of a pair.
  int64_t sequences() const { return sequences_; }
  /// Else vectors.
  bool holds_tokens() const { return largest_token_.has_value(); }
  /// Numbers of a step, 1 for tokens.
  int64_t width() const { return width_; }
  int64_t classes() const { return classes_.count; }
  /// May be empty.
  const std::vector<std::string>& class_names() const { return classes_.names; }
  int64_t label(int64_t example) const { return labels_.at(static_cast<size_t>(example)); }
  /// In steps, one at least.
  int64_t length(int64_t example, int64_t sequence) const;
  /// Of all sequences together.
  int64_t steps() const { return ends_.back(); }
  /// The longest sequence's.
  int64_t longest() const { return longest_; }
  /// A sequence's first out.size() tokens. Throws Error for one that is not in [0, largest_token()].
  void read_tokens(int64_t example, int64_t sequence, std::span<int64_t> out) const;
  /// A sequence's first out.size() / width() vectors. Throws Error for a number that is not finite.
  void read_vectors(int64_t example, int64_t sequence, std::span<float> out) const;
  /// What made the tokens, as Tokenizer::describe() says it; null for vectors.
  const nlohmann::ordered_json& tokenizer() const { return *tokenizer_; }
  /// No token is above it; -1 for vectors.
  int64_t largest_token() const { return largest_token_.value_or(-1); }
  /// What a number of a step is stored as.
  io::Dtype type() const { return type_; }
  const fs::path& path() const { return path_; }
  /// Of everything but the tokenizer: data_fingerprint().
  std::string fingerprint() const;

 private:
  struct Steps {
    const std::byte* from;
    int64_t begin;  // in `values`
  };

  void read_metadata();
  void read_values(const io::TensorView& values);
  void read_ends(const io::TensorView& ends);
  void read_labels(const io::TensorView& labels);
  const io::TensorView& tensor(const char* name) const;
  size_t index_of(int64_t example, int64_t sequence) const;
  Steps steps_of(int64_t example, int64_t sequence, size_t count) const;

  io::TensorFile content_;
  fs::path path_;
  Classes classes_;
  std::shared_ptr<const nlohmann::ordered_json> tokenizer_;
  std::optional<int64_t> largest_token_;
  io::Dtype type_ = io::Dtype::U8;
  std::span<const std::byte> values_;
  std::vector<int64_t> ends_;
  std::vector<int32_t> labels_;
  int64_t width_ = 1, sequences_ = 1, longest_ = 0;
};

/// Writes such a file: the sequences of an example, then end_example(). What does not fit into 64 MiB of memory waits
/// in a temporary file, but for 8 bytes a sequence and 4 an example. Nothing is published before finish().
class ExampleWriter {
 public:
  /// Of tokens.
  ExampleWriter(const fs::path& prefix, const Tokenizer& tokenizer);
  /// Of vectors of `width` numbers, stored as U8, I16 or F32.
  ExampleWriter(const fs::path& prefix, io::Dtype type, int64_t width);
  ~ExampleWriter();

  void add_tokens(std::span<const int32_t> tokens);
  /// T is uint8_t, int16_t or float, as the type says.
  template <class T>
  void add_vectors(std::span<const T> numbers) {
    add_stored({reinterpret_cast<const char*>(numbers.data()), numbers.size_bytes()});
  }
  /// A sequence as it is stored. Throws Error where it is empty.
  void add_stored(std::string_view bytes);
  /// Throws Error where it has not as many sequences as those before, 1 or 2.
  void end_example(int64_t label);
  /// Class i of those given so far becomes places[i].
  void relabel(std::span<const int64_t> places);

  int64_t size() const { return static_cast<int64_t>(labels_.size()); }
  int64_t steps() const { return ends_.empty() ? 0 : ends_.back(); }
  /// Throws Error for a label that is none of the classes, and where there is no example.
  void finish(const Classes& classes);
  /// Publishes all of `writers` or, where a disk fills up, none. The first appears last: whoever finds it finds a
  /// complete set. Where the set is the split in the folder `split`, parts that an older one had there and this one has
  /// not go.
  static void finish_together(std::span<ExampleWriter* const> writers, const Classes& classes,
                              const fs::path& split = {});

 private:
  void seal(const Classes& classes);

  fs::path prefix_;
  std::optional<TokenStore> store_;                    // of tokens
  std::unique_ptr<nlohmann::ordered_json> tokenizer_;  // describe(), or null
  TokenRange range_;                                   // of all tokens
  io::Dtype type_;
  int64_t width_, sequences_ = 0;
  std::vector<int64_t> ends_;
  std::vector<int32_t> labels_;
  SpillBuffer values_;
  AtomicFile file_;
};

}  // namespace megalodon::data
