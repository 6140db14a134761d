#include "data/corpus.h"

#include <algorithm>

#include "base/check.h"
#include "base/ordered_pipeline.h"
#include "data/document_encoder.h"
#include "data/record_reader.h"

namespace megalodon::data {
namespace {

constexpr size_t kBadExamples = 5;

/// The last, serial stage: takes encoded blocks in order.
class Collector {
 public:
  Collector(SplitWriter& writer, BadLines bad_lines, PrepareResult& result)
      : writer_(writer), bad_lines_(bad_lines), result_(result) {}

  void take(const EncodedBlock& block) {
    check(block.bad.empty() || bad_lines_ == BadLines::kSkip, "[data] {} (--bad-lines skip leaves such lines out)",
          block.bad.empty() ? "" : block.bad.front());
    result_.empty += block.empty;
    result_.bad += static_cast<int64_t>(block.bad.size());
    for (const std::string& example : block.bad) {
      if (result_.bad_examples.size() < kBadExamples) result_.bad_examples.push_back(example);
    }
    size_t at = 0;
    for (const EncodedPiece& piece : block.pieces) {
      writer_.append(std::string_view(block.stored).substr(at, piece.bytes));
      at += piece.bytes;
      hash_ = continued_ ? chain(hash_, piece.hash) : piece.hash;
      continued_ = !piece.last;
      if (piece.last) writer_.end_document(hash_);
    }
  }

 private:
  SplitWriter& writer_;
  BadLines bad_lines_;
  PrepareResult& result_;
  Hash128 hash_;
  bool continued_ = false;
};

}  // namespace

PrepareResult prepare(const PrepareOptions& options, const Tokenizer& tokenizer,
                      const std::function<void(const PrepareStatus&)>& progress) {
  check(options.longest > 0, "[data] expected lines of at least one byte to be allowed, got 0");
  const bool split = options.valid > 0 || options.test > 0;  // then the output is a folder
  check(split ? !options.output.empty() : options.output.has_filename(),
        "[data] expected the output as a prefix of file names such as corpora/mine, got '{}'", options.output.string());
  RecordReader reader(find_inputs(options.inputs),
                      {options.separator, options.longest, tokenizer.encodes_in_pieces() ? kPieceBytes : 0});
  const DocumentEncoder encoder(
      {options.field, options.longest, options.dedupe, options.prepend_bos, options.append_eos}, tokenizer);
  SplitWriter writer({.output = options.output,
                      .valid = options.valid,
                      .test = options.test,
                      .seed = options.seed,
                      .dedupe = options.dedupe,
                      .marks = {options.prepend_bos, options.append_eos},
                      .shuffle = options.shuffle},
                     tokenizer);
  PrepareResult result;
  Collector collector(writer, options.bad_lines, result);
  PrepareStatus status;
  status.total = reader.total_bytes();
  ordered_pipeline(
      options.threads, 2 * static_cast<size_t>(std::max(options.threads, 1)), [&] { return reader.next(); }, encoder,
      [&](const EncodedBlock& block) {
        collector.take(block);
        status.done = block.position;
        status.text += block.text_bytes;
        if (progress) progress(status);
      });
  status.shuffling = true;
  result.parts = writer.finish([&](uint64_t done, uint64_t total) {
    status.done = done, status.total = total;
    if (progress) progress(status);
  });
  result.duplicates = writer.duplicates();
  result.empty += writer.empty();
  result.abandoned = writer.abandoned();
  result.skipped_entries = reader.skipped_entries();
  return result;
}

}  // namespace megalodon::data
