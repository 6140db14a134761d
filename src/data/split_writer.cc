#include "data/split_writer.h"

#include <algorithm>

#include "base/check.h"
#include "base/philox.h"

namespace megalodon::data {
namespace {

constexpr uint64_t kSplitStream = 0x73706C6974;  // the split's own random numbers

}  // namespace

SplitWriter::SplitWriter(const Options& options, const Tokenizer& tokenizer)
    : options_(options), tokenizer_(tokenizer) {
  const double valid = options.valid, test = options.test;
  check(valid >= 0 && test >= 0 && valid + test < 1,
        "[data] the fractions of valid and test must not be negative and leave something to train on, got {} and {}",
        valid, test);
  const bool split = valid > 0 || test > 0;
  const fs::path folder = split ? options.output : options.output.parent_path();
  std::error_code error;
  if (!folder.empty()) fs::create_directories(folder, error);
  check(!error, "[data] cannot create folder '{}': {}", folder.string(), error.message());
  add_part(split ? "train" : "", 1 - valid - test);
  if (valid > 0) add_part("valid", valid);
  if (test > 0) add_part("test", test);
}

void SplitWriter::add_part(std::string name, double fraction) {
  const fs::path prefix = name.empty() ? options_.output : options_.output / name;
  parts_.push_back({std::move(name), fraction, std::make_unique<TokenFileWriter>(prefix, tokenizer_)});
}

/// The part of the next document: a function of its number and the seed, so that it does not depend on the machine, the
/// tokenizer or what the documents say.
size_t SplitWriter::draw() const {
  const uint64_t key = derive_key(options_.seed, kSplitStream);
  double left = philox(key, static_cast<uint64_t>(documents_))[0] * 0x1p-32;
  for (size_t part = parts_.size() - 1; part > 0; --part) {
    if (left < parts_[part].fraction) return part;
    left -= parts_[part].fraction;
  }
  return 0;
}

void SplitWriter::add(std::string_view document) {
  if (document.empty()) return;
  const size_t part = draw();
  ++documents_;
  ++parts_[part].documents;
  waiting_.push_back({std::string(document), part});
  if (waiting_.size() > parts_.size()) write_first();
}

void SplitWriter::write_first() {
  const Waiting& first = waiting_.front();
  parts_[first.part].writer->add_document(tokenizer_.encode(first.text));
  waiting_.pop_front();
}

/// Always succeeds: with as many documents waiting as there are parts, those that must stay (one for each part that has
/// any) leave at least one for every part that has none.
void SplitWriter::fill_empty_parts() {
  for (size_t empty = 0; empty < parts_.size(); ++empty) {
    if (parts_[empty].documents > 0) continue;
    const auto spare = std::find_if(waiting_.begin(), waiting_.end(),
                                    [&](const Waiting& waiting) { return parts_[waiting.part].documents > 1; });
    --parts_[spare->part].documents;
    ++parts_[empty].documents;
    spare->part = empty;
  }
}

PrepareResult SplitWriter::finish() {
  check(documents_ > 0, "[data] the input has no text: every document is empty");
  check(documents_ >= static_cast<int64_t>(parts_.size()),
        "[data] a split into {} parts needs as many documents, got {}; give a separator that divides the text into "
        "more documents, or no split",
        parts_.size(), documents_);
  fill_empty_parts();
  while (!waiting_.empty()) write_first();
  PrepareResult result;
  std::vector<TokenFileWriter*> writers;
  for (const Part& part : parts_) writers.push_back(part.writer.get());
  TokenFileWriter::finish_together(writers);
  for (const Part& part : parts_) {
    result.parts.push_back({part.name, part.documents, part.writer->tokens()});
  }
  return result;
}

}  // namespace megalodon::data
