#include "eval/document_streams.h"

#include <algorithm>

#include "base/check.h"
#include "data/loader.h"

namespace megalodon {

DocumentStreams::DocumentStreams(const data::TokenFile& file, const data::Tokenizer& tokenizer)
    : file_(file), tokenizer_(tokenizer) {}

void DocumentStreams::add_marks() {
  marks_ = tokenizer_.special_tokens();
  const data::DocumentMarks there = file_.marks().value_or(data::DocumentMarks());
  if (there.bos) marks_.bos.reset();
  if (there.eos) marks_.eos.reset();
}

int64_t DocumentStreams::length(int64_t document) const {
  return file_.document_length(document) + (marks_.bos ? 1 : 0) + (marks_.eos ? 1 : 0);
}

/// Tokens [begin, begin + out.size()) of the document with its marks, all of which must be there.
void DocumentStreams::read_row(int64_t document, int64_t begin, std::span<int64_t> out) const {
  if (out.empty()) return;
  if (marks_.bos && begin == 0) {
    out.front() = *marks_.bos;
    return read_row(document, 1, out.subspan(1));
  }
  if (marks_.eos && begin + static_cast<int64_t>(out.size()) == length(document)) {
    out.back() = *marks_.eos;
    out = out.first(out.size() - 1);
  }
  file_.read(file_.document_begin(document) + begin - (marks_.bos ? 1 : 0), out);
  for (const int64_t token : out)
    check(token >= 0 && token < tokenizer_.vocabulary(), "[eval] {}: token {} is not in the model's vocabulary of {}",
          file_.prefix().string(), token, tokenizer_.vocabulary());
}

Stretch DocumentStreams::read(const std::vector<int64_t>& documents, int64_t begin, int64_t steps) const {
  const auto rows = static_cast<int64_t>(documents.size());
  const Stretch stretch{torch::zeros({rows, steps}, torch::kInt64),
                        torch::full({rows, steps}, data::kIgnoreTarget, torch::kInt64)};
  std::vector<int64_t> row(static_cast<size_t>(steps) + 1);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t count = std::clamp<int64_t>(length(documents[r]) - 1 - begin, 0, steps);  // predictions of this row
    if (count == 0) continue;
    read_row(documents[r], begin, std::span(row).first(static_cast<size_t>(count) + 1));
    std::copy_n(row.begin(), count, stretch.tokens_BL.data_ptr<int64_t>() + r * steps);
    std::copy_n(row.begin() + 1, count, stretch.targets_BL.data_ptr<int64_t>() + r * steps);
  }
  return stretch;
}

}  // namespace megalodon
