#include "data/split_writer.h"

#include <algorithm>

#include "base/check.h"
#include "base/permutation.h"
#include "data/document_hash.h"
#include "data/split.h"

namespace megalodon::data {
namespace {

constexpr uint64_t kShuffleStream = 0x73687566;
constexpr const char* kSpill = "documents-";    // and a number
constexpr size_t kKeptBytes = size_t{8} << 20;  // of a document that are kept in memory
constexpr size_t kSpoolBytes = size_t{64} << 20;

}  // namespace

SplitWriter::SplitWriter(const Options& options, const Tokenizer& tokenizer)
    : options_(options),
      tokenizer_(tokenizer),
      store_(tokenizer.vocabulary()),
      folder_(is_split() ? options.output : options.output.parent_path()),
      spill_(is_split() ? options.output / kSpill : fs::path(options.output) += fmt::format(".{}", kSpill)),
      open_(spill_, kKeptBytes),
      spool_(spill_, kSpoolBytes) {
  const double valid = options.valid, test = options.test;
  check_fractions(valid, test);
  const auto is_mine = [&](std::string_view name) { return is_ours(name); };
  abandoned_ = remove_abandoned(folder_.path(), is_mine);
  add_part(is_split() ? "train" : "", 1 - valid - test);
  if (valid > 0) add_part("valid", valid);
  if (test > 0) add_part("test", test);
}

/// Whether a file of that name in the folder is one that a writer to this output makes.
bool SplitWriter::is_ours(std::string_view name) const {
  const std::string spill = spill_.filename().string();
  if (name.starts_with(spill) && name.find_first_not_of("0123456789", spill.size()) == std::string_view::npos)
    return true;
  const auto is_file_of = [&](const std::string& prefix) {
    return name == prefix + ".bin" || name == prefix + ".idx" || name == prefix + ".json";
  };
  if (!is_split()) return is_file_of(token_prefix(options_.output).filename().string());
  return std::any_of(std::begin(kParts), std::end(kParts), is_file_of);
}

void SplitWriter::add_part(std::string name, double fraction) {
  const fs::path prefix = name.empty() ? options_.output : options_.output / name;
  fractions_.push_back(fraction);
  parts_.push_back({std::move(name), std::make_unique<TokenFileWriter>(prefix, tokenizer_, options_.marks)});
}

void SplitWriter::add(std::string_view text) {
  std::string stored;
  store_.put(tokenizer_.encode(text), stored);
  append(stored);
  end_document(document_hash(text));
}

void SplitWriter::append(std::string_view stored) {
  open_.append(stored);
}

void SplitWriter::end_document(Hash128 hash_of_text) {
  if (open_.empty()) {
    ++empty_;
    return;
  }
  SpillBuffer stored = std::exchange(open_, SpillBuffer(spill_, kKeptBytes));
  if (options_.dedupe && !seen_.insert(hash_of_text).second) {
    ++duplicates_;
    return;
  }
  const size_t part = draw_part(options_.seed, static_cast<uint64_t>(documents_), fractions_);
  ++documents_;
  ++parts_[part].documents;
  waiting_.push_back({std::move(stored), part});
  if (waiting_.size() > parts_.size()) write_first();
}

void SplitWriter::write_first() {
  const auto& [stored, part] = waiting_.front();
  TokenFileWriter& writer = *parts_[part].writer;
  stored.read(0, stored.size(), [&](std::string_view piece) {
    if (options_.shuffle) {
      spool_.append(piece);
    } else {
      writer.append(piece);
    }
  });
  if (options_.shuffle) {
    spool_ends_.push_back(spool_.size());
    spool_parts_.push_back(static_cast<uint8_t>(part));
  } else {
    writer.end_document();
  }
  waiting_.pop_front();
}

/// Every document of the spool, in an order that the seed and their number decide.
void SplitWriter::write_shuffled(const std::function<void(uint64_t, uint64_t)>& progress) {
  const uint64_t key = derive_key(options_.seed, kShuffleStream), count = spool_ends_.size();
  uint64_t done = 0;
  for (uint64_t i = 0; i < count; ++i) {
    const auto document = static_cast<size_t>(permute(i, count, key));
    TokenFileWriter& writer = *parts_[spool_parts_[document]].writer;
    const uint64_t begin = document == 0 ? 0 : spool_ends_[document - 1], end = spool_ends_[document];
    spool_.read(begin, end, [&](std::string_view piece) { writer.append(piece); });
    writer.end_document();
    done += end - begin;
    if (progress) progress(done, spool_.size());
  }
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

std::vector<WrittenPart> SplitWriter::finish(const std::function<void(uint64_t, uint64_t)>& progress) {
  check(documents_ > 0, "[data] the input has no text: every document is empty");
  check(documents_ >= static_cast<int64_t>(parts_.size()),
        "[data] a split into {} parts needs as many documents, got {}; give a separator that divides the text into "
        "more documents, or no split",
        parts_.size(), documents_);
  fill_empty_parts();
  while (!waiting_.empty()) write_first();
  if (options_.shuffle) write_shuffled(progress);
  std::vector<TokenFileWriter*> writers;
  std::vector<WrittenPart> written;
  for (const Part& part : parts_) writers.push_back(part.writer.get());
  TokenFileWriter::finish_together(writers, is_split() ? options_.output : fs::path());
  for (const Part& part : parts_) written.push_back({part.name, part.documents, part.writer->tokens()});
  return written;
}

}  // namespace megalodon::data
