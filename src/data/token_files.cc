#include "data/token_files.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "data/token_sidecar.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

constexpr std::string_view kMagic("MMIDIDX\0\0", 9);
constexpr size_t kVersionAt = 9, kCodeAt = 17, kSequencesAt = 18, kDocumentsAt = 26, kHeaderBytes = 34;
constexpr uint64_t kVersion = 1;

struct Dtype {
  int code;
  size_t width;
  const char* name;
};
constexpr Dtype kDtypes[] = {{1, 1, "u8"}, {2, 1, "i8"}, {3, 2, "i16"}, {4, 4, "i32"}, {5, 8, "i64"}, {8, 2, "u16"}};

const Dtype* find_dtype(int code) {
  const auto* found =
      std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](const Dtype& d) { return d.code == code; });
  return found == std::end(kDtypes) ? nullptr : found;
}

/// Calls body with a value of the dtype's C++ type.
template <class Body>
void with_dtype(int code, const Body& body) {
  switch (code) {
    case 1:
      return body(uint8_t{});
    case 2:
      return body(int8_t{});
    case 3:
      return body(int16_t{});
    case 4:
      return body(int32_t{});
    case 5:
      return body(int64_t{});
    case 8:
      return body(uint16_t{});
    default:
      fail("[token file] unknown dtype code {}", code);
  }
}

int code_for(int64_t vocabulary) {
  check(vocabulary >= 1 && vocabulary <= int64_t{1} << 31, "[token file] expected a vocabulary in [1, 2^31], got {}",
        vocabulary);
  return vocabulary <= 256 ? 1 : vocabulary < 65500 ? 8 : 4;
}

fs::path strip_suffix(const fs::path& prefix) {
  const fs::path suffix = prefix.extension();
  return suffix == ".bin" || suffix == ".idx" ? fs::path(prefix).replace_extension() : prefix;
}

fs::path with_suffix(fs::path prefix, const char* suffix) {
  return prefix += suffix;
}

/// Reads an .idx file piece by piece; every error names the file, the byte and the rule.
class IndexReader {
 public:
  explicit IndexReader(const fs::path& path) : file_(path) {
    check(file_.bytes().size() >= kHeaderBytes, "[token file] '{}': expected a header of {} bytes, the file has {}",
          path.string(), kHeaderBytes, file_.bytes().size());
  }

  template <class T>
  T at(size_t offset) const {
    T value;
    std::memcpy(&value, file_.bytes().data() + offset, sizeof(T));
    return value;
  }

  template <class... Args>
  void expect(bool ok, size_t offset, fmt::format_string<Args...> rule, Args&&... args) const {
    if (ok) return;
    fail("[token file] '{}', byte {}: {}", file_.path().string(), offset,
         fmt::format(rule, std::forward<Args>(args)...));
  }

  size_t size() const { return file_.bytes().size(); }

 private:
  MappedFile file_;
};

/// Where the three arrays begin.
struct Layout {
  const Dtype* dtype;
  size_t sequences, documents;  // entries; the document array has one more than there are documents
  size_t lengths_at, offsets_at, documents_at;
};

Layout read_layout(const IndexReader& index) {
  char magic[kMagic.size()];
  for (size_t i = 0; i < kMagic.size(); ++i) magic[i] = index.at<char>(i);
  index.expect(std::string_view(magic, kMagic.size()) == kMagic, 0, "expected the magic MMIDIDX of a token index");
  const auto version = index.at<uint64_t>(kVersionAt);
  index.expect(version == kVersion, kVersionAt, "expected version {}, got {}", kVersion, version);
  const int code = index.at<uint8_t>(kCodeAt);
  const Dtype* dtype = find_dtype(code);
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

}  // namespace

TokenStore::TokenStore(int64_t vocabulary)
    : vocabulary_(vocabulary), code_(code_for(vocabulary)), width_(find_dtype(code_)->width) {}

void TokenStore::put(std::span<const int32_t> tokens, std::string& out) const {
  for (const int32_t token : tokens)
    check(token >= 0 && token < vocabulary_, "[token file] expected tokens in [0, {}), got {}", vocabulary_, token);
  const size_t before = out.size();
  out.resize(before + tokens.size() * width_);
  with_dtype(code_, [&]<class T>(T) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const T value = static_cast<T>(tokens[i]);
      std::memcpy(out.data() + before + i * sizeof(T), &value, sizeof(T));
    }
  });
}

TokenFileWriter::TokenFileWriter(const fs::path& prefix, int64_t vocabulary, int64_t longest_sequence)
    : prefix_(strip_suffix(prefix)),
      store_(vocabulary),
      longest_(longest_sequence),
      bin_(with_suffix(prefix_, ".bin")),
      idx_(with_suffix(prefix_, ".idx")) {}

TokenFileWriter::TokenFileWriter(const fs::path& prefix, const Tokenizer& tokenizer)
    : TokenFileWriter(prefix, tokenizer.vocabulary()) {
  read_sidecar(prefix_);
  tokenizer_ = std::make_unique<nlohmann::ordered_json>(tokenizer.describe());
}

TokenFileWriter::~TokenFileWriter() = default;

void TokenFileWriter::add_document(std::span<const int32_t> tokens) {
  scratch_.clear();
  store_.put(tokens, scratch_);
  append(scratch_);
  end_document();
}

void TokenFileWriter::append(std::string_view stored) {
  bin_.write(stored);
  auto count = static_cast<int64_t>(stored.size() / store_.width());
  tokens_ += count;
  while (open_ + count > longest_) {
    count -= longest_ - open_;
    open_ = longest_;
    continued_.push_back(lengths_.size());
    end_sequence();
  }
  open_ += count;
}

void TokenFileWriter::end_sequence() {
  lengths_.push_back(static_cast<int32_t>(open_));
  open_ = 0;
}

/// Writes the index and brings all files to the disk.
void TokenFileWriter::seal() {
  const auto put = [&]<class T>(T value) { idx_.write(&value, sizeof(T)); };
  idx_.write(kMagic);
  put(kVersion);
  put(static_cast<uint8_t>(store_.code()));
  put(static_cast<uint64_t>(lengths_.size()));
  put(static_cast<uint64_t>(documents()) + 1);
  for (const int32_t length : lengths_) put(length);
  int64_t offset = 0;
  for (const int32_t length : lengths_) {
    put(offset);
    offset += length * static_cast<int64_t>(store_.width());
  }
  auto continued = continued_.begin();
  put(int64_t{0});
  for (size_t sequence = 0; sequence < lengths_.size(); ++sequence) {
    if (continued != continued_.end() && *continued == sequence) {
      ++continued;
    } else {
      put(static_cast<int64_t>(sequence) + 1);
    }
  }
  if (tokenizer_ != nullptr) {
    sidecar_ = std::make_unique<AtomicFile>(sidecar_path(prefix_));
    sidecar_->write(sidecar_text({*tokenizer_, documents(), tokens()}));
    sidecar_->seal();
  }
  bin_.seal();
  idx_.seal();
}

/// All but the index.
void TokenFileWriter::publish_tokens() {
  bin_.publish();
  if (sidecar_ != nullptr) {
    sidecar_->publish();
  } else {
    fs::remove(sidecar_path(prefix_));
  }
}

void TokenFileWriter::finish() {
  TokenFileWriter* const self = this;
  finish_together({&self, 1});
}

void TokenFileWriter::finish_together(std::span<TokenFileWriter* const> writers) {
  for (TokenFileWriter* writer : writers) writer->seal();
  // An index that is there describes other tokens: a crash between the renames must leave none.
  for (TokenFileWriter* writer : writers) fs::remove(with_suffix(writer->prefix_, ".idx"));
  for (TokenFileWriter* writer : writers) writer->publish_tokens();
  for (auto writer = writers.rbegin(); writer != writers.rend(); ++writer) (*writer)->idx_.publish();
}

TokenFile::TokenFile(const fs::path& prefix) : prefix_(strip_suffix(prefix)), bin_(with_suffix(prefix_, ".bin")) {
  const IndexReader index(with_suffix(prefix_, ".idx"));
  const Layout layout = read_layout(index);
  code_ = layout.dtype->code;
  width_ = layout.dtype->width;
  sequence_begin_.reserve(layout.sequences + 1);
  sequence_offset_.reserve(layout.sequences);
  document_begin_.reserve(layout.documents);

  const size_t stored = bin_.bytes().size() / width_;  // whole tokens in .bin
  sequence_begin_.push_back(0);
  for (size_t i = 0; i < layout.sequences; ++i) {
    const size_t length_at = layout.lengths_at + i * 4, offset_at = layout.offsets_at + i * 8;
    const auto length = index.at<int32_t>(length_at);
    const auto offset = index.at<int64_t>(offset_at);
    index.expect(length >= 0, length_at, "length of sequence {} must not be negative, got {}", i, length);
    index.expect(offset >= 0 && static_cast<uint64_t>(offset) % width_ == 0, offset_at,
                 "offset of sequence {} must be a multiple of {} bytes and not negative, got {}", i, width_, offset);
    const size_t first = static_cast<size_t>(offset) / width_;
    index.expect(first <= stored && static_cast<size_t>(length) <= stored - first, offset_at,
                 "sequence {} ({} tokens of {} bytes at {}) lies beyond the {} bytes of the .bin file", i, length,
                 width_, offset, bin_.bytes().size());
    sequence_offset_.push_back(offset);
    sequence_begin_.push_back(sequence_begin_.back() + length);
  }

  const auto last = static_cast<int64_t>(layout.sequences);
  int64_t previous = 0;
  for (size_t i = 0; i < layout.documents; ++i) {
    const size_t at = layout.documents_at + i * 8;
    const auto first = index.at<int64_t>(at);
    index.expect(i > 0 || first == 0, at, "the first document must begin at sequence 0, got {}", first);
    index.expect(first >= previous && first <= last, at,
                 "document {} must begin at a sequence in [{}, {}] (the array must not decrease), got {}", i, previous,
                 last, first);
    document_begin_.push_back(sequence_begin_[static_cast<size_t>(first)]);
    previous = first;
  }
  index.expect(previous == last, layout.documents_at + (layout.documents - 1) * 8,
               "the document array must end with the number of sequences, {}, got {}", last, previous);
  read_description();
}

void TokenFile::read_description() {
  const auto sidecar = read_sidecar(prefix_);
  if (!sidecar) {
    tokenizer_ = std::make_shared<const nlohmann::ordered_json>();
    return;
  }
  check(sidecar->documents == documents() && sidecar->tokens == tokens(),
        "[token file] '{}' describes {} tokens in {} documents, the pair has {} in {}; prepare the corpus again, or "
        "remove that file if the tokenizer is known",
        sidecar_path(prefix_).string(), sidecar->tokens, sidecar->documents, tokens(), documents());
  tokenizer_ = std::make_shared<const nlohmann::ordered_json>(sidecar->tokenizer);
}

int64_t TokenFile::document_of(int64_t position) const {
  check(position >= 0 && position < tokens(), "[token file] '{}': expected a position in [0, {}), got {}",
        prefix_.string(), tokens(), position);
  return std::upper_bound(document_begin_.begin(), document_begin_.end(), position) - document_begin_.begin() - 1;
}

void TokenFile::read(int64_t position, std::span<int64_t> out) const {
  check(position >= 0 && position <= tokens() && out.size() <= static_cast<size_t>(tokens() - position),
        "[token file] '{}': cannot read {} tokens at {}, there are {}", prefix_.string(), out.size(), position,
        tokens());
  auto sequence = static_cast<size_t>(std::upper_bound(sequence_begin_.begin(), sequence_begin_.end(), position) -
                                      sequence_begin_.begin() - 1);
  for (; !out.empty(); ++sequence) {
    const int64_t skip = position - sequence_begin_[sequence];
    const size_t count = std::min(out.size(), static_cast<size_t>(sequence_begin_[sequence + 1] - position));
    const std::byte* from = bin_.bytes().data() + sequence_offset_[sequence] + skip * static_cast<int64_t>(width_);
    with_dtype(code_, [&]<class T>(T value) {
      for (size_t i = 0; i < count; ++i) {
        std::memcpy(&value, from + i * sizeof(T), sizeof(T));  // foreign files need not be aligned
        out[i] = value;  // NOLINT(bugprone-signed-char-misuse): i8 tokens are numbers, not characters
      }
    });
    out = out.subspan(count);
    position += static_cast<int64_t>(count);
  }
}

void check_tokenizer(const TokenFile& file, const Tokenizer& tokenizer) {
  const auto mine = tokenizer.describe();
  check(file.tokenizer().is_null() || same_tokenizer(file.tokenizer(), mine),
        "[token file] '{}' was prepared with the tokenizer {}, but here the tokenizer is {}; prepare the corpus with "
        "the model's tokenizer",
        file.prefix().string(), tokenizer_text(file.tokenizer()), tokenizer_text(mine));
}

std::string describe(const TokenFile& file) {
  std::vector<int64_t> lengths(static_cast<size_t>(file.documents()));
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = file.document_length(static_cast<int64_t>(i));
  std::sort(lengths.begin(), lengths.end());
  std::string text = fmt::format(
      "documents  {}\nsequences  {}\ntokens     {}\ndtype      {}\nbytes      {}\n"
      "tokenizer  {}\n",
      file.documents(), file.sequences(), file.tokens(), find_dtype(file.dtype_code())->name, file.bytes(),
      tokenizer_text(file.tokenizer()));
  if (!lengths.empty()) {
    text += fmt::format("document length: shortest {}, median {}, longest {}\n", lengths.front(),
                        lengths[lengths.size() / 2], lengths.back());
  }
  return text;
}

}  // namespace megalodon::data
