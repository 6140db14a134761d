// From text to token files: `data prepare`, and the dictionary of `data get gcide`.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "data/split_writer.h"
#include "data/tokenizer.h"

namespace megalodon::data {

/// What happens at a line that is no JSON object with the text (or a document that is too long for the tokenizer).
enum class BadLines { kStop, kSkip };

struct PrepareOptions {
  std::vector<fs::path> inputs;  // files, folders and patterns: data/input_files.h
  fs::path output;               // prefix of the .bin/.idx pair, or with a split the folder of train, valid, test
  std::string separator;         // separates the documents of a text file and belongs to none; empty: one per file
  double valid = 0, test = 0;    // fractions of the documents, drawn by a hash of the document's number and the seed
  uint64_t seed = 0;             // of split and shuffle
  std::string field = "text";    // of JSON lines
  BadLines bad_lines = BadLines::kStop;
  bool dedupe = false;   // drop documents with the same text as an earlier one
  bool shuffle = false;  // of the documents
  bool prepend_bos = false, append_eos = false;
  int threads = 1;
  size_t longest = size_t{64} << 20;  // bytes of a line; with tokenizers other than bytes also of a document
};

struct PrepareResult {
  using Part = WrittenPart;
  std::vector<Part> parts;
  int64_t empty = 0, duplicates = 0;      // documents left out: without text or without tokens, copies
  int64_t bad = 0;                        // lines (and documents) left out
  std::vector<std::string> bad_examples;  // "file:line: why", the first few
  Removed abandoned;                      // temporary files that a killed run to this output had left
  int64_t skipped_entries = 0;            // files in archives that are neither text nor JSON lines
};

struct PrepareStatus {
  uint64_t done = 0, total = 0;  // bytes of the input files; while shuffling, of the tokens
  uint64_t text = 0;             // bytes of text read so far, unpacked
  bool shuffling = false;
};

/// The output is a function of the options and the inputs, bit for bit, whatever the number of threads. Memory is
/// bounded whatever the size of the input: a few blocks of 1 MiB a thread, lines of up to `longest` bytes, 4 bytes a
/// document, and what SplitWriter states for dedupe and shuffle. Text is taken as bytes, and with bytes as tokens a
/// document may have any size. Empty documents are dropped. With a split every part gets a document at least; Error
/// where there are fewer documents than parts. Nothing is published unless everything succeeds. `progress` is called
/// now and then.
PrepareResult prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                      const std::function<void(const PrepareStatus&)>& progress = {});

/// Debian's dict-gcide package (the GNU Collaborative International Dictionary of English, about 40 MB) as
/// <folder>/{train,valid,test}. A document is a run of consecutive entries of about 64 KiB; 1 in 50
/// goes to valid and to test each. `source` is normally kGcideSource.
inline constexpr const char* kGcideSource = "/usr/share/dictd/gcide.dict.dz";
PrepareResult get_gcide(const fs::path& folder, const Tokenizer& tokenizer, const fs::path& source = kGcideSource,
                        const std::function<void(uint64_t, uint64_t)>& progress = {});

}  // namespace megalodon::data
