// The GNU Collaborative International Dictionary of English as Debian packages it for dictd. In that file an entry
// begins at column 0 after an empty line with its headword and pronunciation, its body is indented:
//
//   Megalodon \Meg"a*lo*don\, n. [...]
//      ...
//      [1913 Webster] Megalops                 <- an artefact: the next headword, torn off
//
//   Megalops \Meg"a*lops\, n. [...]
//
// Version 0.48 (dict-gcide 0.48.5+nmu2, 39,952,321 bytes) gives
//
//   train  587 documents  38,778,038 tokens
//   valid   11 documents     727,511 tokens
//   test     6 documents     398,165 tokens
#include <algorithm>

#include "base/check.h"
#include "data/byte_stream.h"
#include "data/corpus.h"
#include "data/split_writer.h"

namespace megalodon::data {
namespace {

constexpr size_t kGcideDocumentBytes = size_t{64} << 10;
constexpr double kHeldOut = 0.02;      // to valid and to test each
constexpr uint64_t kSplitSeed = 1913;  // fixed: whoever fetches the corpus gets the same split

std::string read_packed(const fs::path& path) {
  check(fs::exists(path), "[gcide] '{}' is missing; install it with: apt-get install dict-gcide", path.string());
  const auto stream = open_stream(path, Compression::kGzip);  // dictzip is gzip with an index
  std::string text;
  std::string piece(size_t{1} << 20, '\0');
  while (const size_t got = stream->read(piece.data(), piece.size())) text.append(piece, 0, got);
  return text;
}

bool begins_entry(std::string_view line) {
  return !line.empty() && line[0] != ' ' && line[0] != '\\' && line.find('\\') != std::string_view::npos;
}

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](char x, char y) { return lower(x) == lower(y); });
}

/// Removes the headword of the next entry from the end of `text`, where it follows a source tag or a full stop.
void strip_torn_headword(std::string& text, std::string_view entry) {
  const std::string_view headword = entry.substr(0, entry.find(" \\"));
  const size_t end = text.find_last_not_of('\n') + 1;
  if (end < headword.size() + 2) return;
  const size_t torn = end - headword.size(), before = torn - 2;
  if (text[torn - 1] == ' ' && (text[before] == ']' || text[before] == '.') &&
      equal_ignoring_case(std::string_view(text).substr(torn, headword.size()), headword)) {
    text.erase(torn - 1, headword.size() + 1);
  }
}

}  // namespace

PrepareResult get_gcide(const fs::path& folder, const Tokenizer& tokenizer, const fs::path& source,
                        const std::function<void(uint64_t, uint64_t)>& progress) {
  const std::string dictionary = read_packed(source);
  SplitWriter writer({.output = folder, .valid = kHeldOut, .test = kHeldOut, .seed = kSplitSeed}, tokenizer);
  std::string document;
  bool in_entries = false, after_empty_line = true;
  for (size_t at = 0; at < dictionary.size();) {
    const size_t end = std::min(dictionary.find('\n', at), dictionary.size() - 1) + 1;
    const std::string_view line = std::string_view(dictionary).substr(at, end - at);
    // The licence and the preface come before the first entry, and no empty line divides them from it.
    if (begins_entry(line) && (after_empty_line || !in_entries)) {
      in_entries = true;
      strip_torn_headword(document, line);
      if (document.size() >= kGcideDocumentBytes) {
        writer.add(document);
        document.clear();
        if (progress) progress(at, dictionary.size());
      }
    }
    if (in_entries) document += line;
    after_empty_line = line == "\n";
    at = end;
  }
  check(in_entries, "[gcide] '{}' holds no dictionary entry; is it the dict-gcide package's file?", source.string());
  writer.add(document);
  if (progress) progress(dictionary.size(), dictionary.size());
  PrepareResult result;
  result.parts = writer.finish();
  return result;
}

}  // namespace megalodon::data
