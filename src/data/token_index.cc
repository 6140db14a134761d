#include "data/token_index.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "base/check.h"

namespace megalodon::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr size_t kVersionAt = 9, kCodeAt = 17, kSequencesAt = 18, kDocumentsAt = 26, kHeaderBytes = 34;

constexpr TokenDtype kDtypes[] = {{1, 1, "u8"},  {2, 1, "i8"},  {3, 2, "i16"},
                                  {4, 4, "i32"}, {5, 8, "i64"}, {8, 2, "u16"}};

/// Reads an .idx file piece by piece; every error names the file, the byte and the rule.
class IndexReader {
 public:
  IndexReader(std::span<const std::byte> bytes, std::string_view name) : bytes_(bytes), name_(name) {
    check(size() >= kHeaderBytes, "[token file] '{}': expected a header of {} bytes, the file has {}", name_,
          kHeaderBytes, size());
  }

  template <class T>
  T at(size_t offset) const {
    T value;
    std::memcpy(&value, bytes_.data() + offset, sizeof(T));
    return value;
  }

  template <class... Args>
  void expect(bool ok, size_t offset, fmt::format_string<Args...> rule, Args&&... args) const {
    if (ok) return;
    fail("[token file] '{}', byte {}: {}", name_, offset, fmt::format(rule, std::forward<Args>(args)...));
  }

  size_t size() const { return bytes_.size(); }

 private:
  std::span<const std::byte> bytes_;
  std::string_view name_;
};

/// Where the three arrays begin.
struct IndexLayout {
  const TokenDtype* dtype;
  size_t sequences, documents;  // entries; the document array has one more than there are documents
  size_t lengths_at, offsets_at, documents_at;
};

IndexLayout read_layout(const IndexReader& index) {
  char magic[kTokenIndexMagic.size()];
  for (size_t i = 0; i < kTokenIndexMagic.size(); ++i) magic[i] = index.at<char>(i);
  index.expect(std::string_view(magic, kTokenIndexMagic.size()) == kTokenIndexMagic, 0,
               "expected the magic MMIDIDX of a token index");
  const auto version = index.at<uint64_t>(kVersionAt);
  index.expect(version == kTokenIndexVersion, kVersionAt, "expected version {}, got {}", kTokenIndexVersion, version);
  const int code = index.at<uint8_t>(kCodeAt);
  const TokenDtype* dtype = find_token_dtype(code);
  index.expect(dtype != nullptr, kCodeAt, "expected a dtype code of 1 u8, 2 i8, 3 i16, 4 i32, 5 i64 or 8 u16, got {}",
               code);
  // Compared by division: a count of 2^63 must not overflow into something that fits.
  const auto sequences = index.at<uint64_t>(kSequencesAt), documents = index.at<uint64_t>(kDocumentsAt);
  const size_t body = index.size() - kHeaderBytes;
  index.expect(sequences <= body / 12, kSequencesAt, "{} sequences need 12 bytes each, {} bytes follow the header",
               sequences, body);
  const size_t rest = body - sequences * 12;
  index.expect(documents >= 1, kDocumentsAt, "expected at least one entry in the document array, got 0");
  index.expect(documents <= rest / 8, kDocumentsAt,
               "{} document entries need 8 bytes each, {} bytes follow the sequences; is the file truncated?",
               documents, rest);
  const size_t extra = rest - documents * 8;
  // Multimodal writers append one mode byte per sequence.
  index.expect(extra == 0 || extra == sequences, index.size() - extra,
               "expected the end of the file or {} mode bytes, got {} bytes; is the file truncated?", sequences, extra);
  const size_t offsets_at = kHeaderBytes + sequences * 4;
  return {dtype, sequences, documents, kHeaderBytes, offsets_at, offsets_at + sequences * 8};
}

void read_sequences(const IndexReader& reader, const IndexLayout& layout, size_t bin_bytes, TokenIndex& index) {
  index.sequence_begin.reserve(layout.sequences + 1);
  index.sequence_offset.reserve(layout.sequences);
  const size_t stored = bin_bytes / index.width;  // whole tokens in .bin
  index.sequence_begin.push_back(0);
  for (size_t i = 0; i < layout.sequences; ++i) {
    const size_t length_at = layout.lengths_at + i * 4, offset_at = layout.offsets_at + i * 8;
    const auto length = reader.at<int32_t>(length_at);
    const auto offset = reader.at<int64_t>(offset_at);
    reader.expect(length >= 0, length_at, "length of sequence {} must not be negative, got {}", i, length);
    reader.expect(offset >= 0 && static_cast<uint64_t>(offset) % index.width == 0, offset_at,
                  "offset of sequence {} must be a multiple of {} bytes and not negative, got {}", i, index.width,
                  offset);
    const size_t first = static_cast<size_t>(offset) / index.width;
    reader.expect(first <= stored && static_cast<size_t>(length) <= stored - first, offset_at,
                  "sequence {} ({} tokens of {} bytes at {}) lies beyond the {} bytes of the .bin file", i, length,
                  index.width, offset, bin_bytes);
    index.sequence_offset.push_back(offset);
    index.sequence_begin.push_back(index.sequence_begin.back() + length);
  }
}

void read_documents(const IndexReader& reader, const IndexLayout& layout, TokenIndex& index) {
  index.document_begin.reserve(layout.documents);
  const auto last = static_cast<int64_t>(layout.sequences);
  int64_t previous = 0;
  for (size_t i = 0; i < layout.documents; ++i) {
    const size_t at = layout.documents_at + i * 8;
    const auto first = reader.at<int64_t>(at);
    reader.expect(i > 0 || first == 0, at, "the first document must begin at sequence 0, got {}", first);
    reader.expect(first >= previous && first <= last, at,
                  "document {} must begin at a sequence in [{}, {}] (the array must not decrease), got {}", i, previous,
                  last, first);
    index.document_begin.push_back(index.sequence_begin[static_cast<size_t>(first)]);
    previous = first;
  }
  reader.expect(previous == last, layout.documents_at + (layout.documents - 1) * 8,
                "the document array must end with the number of sequences, {}, got {}", last, previous);
}

}  // namespace

const TokenDtype* find_token_dtype(int code) {
  const auto* found =
      std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const TokenDtype& d) { return d.code == code; });
  return found == std::end(kDtypes) ? nullptr : found;
}

TokenIndex parse_token_index(std::span<const std::byte> file, size_t bin_bytes, std::string_view name) {
  const IndexReader reader(file, name);
  const IndexLayout layout = read_layout(reader);
  TokenIndex index;
  index.dtype_code = layout.dtype->code;
  index.width = layout.dtype->width;
  read_sequences(reader, layout, bin_bytes, index);
  read_documents(reader, layout, index);
  return index;
}

}  // namespace megalodon::data
