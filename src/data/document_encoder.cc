#include "data/document_encoder.h"

#include <nlohmann/json.hpp>

#include "base/check.h"
#include "data/jsonl.h"

namespace megalodon::data {

DocumentEncoder::DocumentEncoder(Options options, const Tokenizer& tokenizer)
    : options_(std::move(options)), tokenizer_(tokenizer), store_(tokenizer.vocabulary()) {
  const SpecialTokens special = tokenizer.special_tokens();
  if (options_.prepend_bos && !special.bos)
    fail_usage("[data] the tokenizer {} has no token that begins a document", tokenizer_text(tokenizer.describe()));
  if (options_.append_eos && !special.eos)
    fail_usage("[data] the tokenizer {} has no token that ends a document", tokenizer_text(tokenizer.describe()));
}

EncodedBlock DocumentEncoder::operator()(const Block& block) const {
  EncodedBlock out;
  out.position = block.position;
  out.text_bytes = block.text.size();
  for (const Record& record : block.records) encode(block, record, out);
  return out;
}

void DocumentEncoder::encode(const Block& block, const Record& record, EncodedBlock& out) const {
  const bool lines = block.layout == Layout::kJsonLines;
  const auto refuse = [&](const std::string& reason) {
    out.bad.push_back(fmt::format("{}:{}{}: {}", *block.source, lines ? "" : "document ", record.number, reason));
  };
  const std::string_view text = std::string_view(block.text).substr(record.begin, record.size);
  if (record.too_long) {
    refuse(fmt::format("longer than {} bytes{}", options_.longest,
                       lines ? "" : ", which this tokenizer takes whole; a separator could divide it"));
  } else if (lines) {
    const JsonlText parsed = parse_jsonl_line(text, options_.field);
    if (parsed.error.empty()) {
      put(parsed.text, record, out);
    } else {
      refuse(parsed.error);
    }
  } else {
    put(text, record, out);
  }
}

void DocumentEncoder::put(std::string_view text, const Record& record, EncodedBlock& out) const {
  if (text.empty() && record.first) {
    ++out.empty;
    return;
  }
  const size_t before = out.stored.size();
  const SpecialTokens special = tokenizer_.special_tokens();
  if (options_.prepend_bos && record.first) store_.put({&*special.bos, 1}, out.stored);
  store_.put(tokenizer_.encode(text), out.stored);
  if (options_.append_eos && record.last) store_.put({&*special.eos, 1}, out.stored);
  out.pieces.push_back({out.stored.size() - before, record.last, options_.hash ? document_hash(text) : Hash128()});
}

}  // namespace megalodon::data
