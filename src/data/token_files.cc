#include "data/token_files.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "base/hash.h"
#include "data/fingerprint.h"
#include "data/token_index.h"
#include "data/token_sidecar.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

static_assert(std::endian::native == std::endian::little, "token files are little-endian");

int code_for(int64_t vocabulary) {
  check(vocabulary >= 1 && vocabulary <= int64_t{1} << 31, "[token file] expected a vocabulary in [1, 2^31], got {}",
        vocabulary);
  return vocabulary <= 256 ? 1 : vocabulary < 65500 ? 8 : 4;
}

fs::path with_suffix(fs::path prefix, const char* suffix) {
  return prefix += suffix;
}

bool has_sidecar(const fs::path& prefix) {
  try {
    return read_sidecar(prefix).has_value();
  } catch (const Error&) {
    return false;  // a file of another kind
  }
}

/// Whether a token file was written there, be it that a crash left only a part of it.
bool is_pair(const fs::path& prefix) {
  return fs::exists(with_suffix(prefix, ".idx")) || has_sidecar(prefix);
}

/// Of a pair to read: Error, naming those in it, where it is a folder.
fs::path existing_prefix(const fs::path& path) {
  const fs::path prefix = token_prefix(path);
  if (fs::exists(with_suffix(prefix, ".bin")) || !fs::is_directory(prefix)) return prefix;
  std::vector<std::string> inside;
  for (const auto& entry : fs::directory_iterator(prefix))
    if (entry.path().extension() == ".idx") inside.push_back(token_prefix(entry.path()).string());
  std::sort(inside.begin(), inside.end());
  fail("[token file] '{}' is a folder, expected the prefix of a .bin/.idx pair{}{}", path.string(),
       inside.empty() ? "; it holds none" : "; it holds ", fmt::join(inside, ", "));
}

}  // namespace

fs::path token_prefix(const fs::path& path) {
  const fs::path suffix = path.extension();
  return suffix == ".bin" || suffix == ".idx" ? fs::path(path).replace_extension() : path;
}

TokenStore::TokenStore(int64_t vocabulary)
    : vocabulary_(vocabulary), code_(code_for(vocabulary)), width_(find_token_dtype(code_)->width) {}

void TokenStore::put(std::span<const int32_t> tokens, std::string& out) const {
  for (const int32_t token : tokens)
    check(token >= 0 && token < vocabulary_, "[token file] expected tokens in [0, {}), got {}", vocabulary_, token);
  const size_t before = out.size();
  out.resize(before + tokens.size() * width_);
  with_token_dtype(code_, [&]<class T>(T) {
    for (size_t i = 0; i < tokens.size(); ++i) {
      const T value = static_cast<T>(tokens[i]);
      std::memcpy(out.data() + before + i * sizeof(T), &value, sizeof(T));
    }
  });
}

TokenFileWriter::TokenFileWriter(const fs::path& prefix, int64_t vocabulary, int64_t longest_sequence)
    : prefix_(token_prefix(prefix)),
      store_(vocabulary),
      longest_(longest_sequence),
      bin_(with_suffix(prefix_, ".bin")),
      idx_(with_suffix(prefix_, ".idx")) {}

TokenFileWriter::TokenFileWriter(const fs::path& prefix, const Tokenizer& tokenizer, DocumentMarks marks)
    : TokenFileWriter(prefix, tokenizer.vocabulary()) {
  read_sidecar(prefix_);
  marks_ = marks;
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
  range_.add(std::as_bytes(std::span(stored)), store_.code());
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
  idx_.write(kTokenIndexMagic);
  put(kTokenIndexVersion);
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
    sidecar_->write(sidecar_text({*tokenizer_, documents(), tokens(), marks_, range_.largest}));
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

void TokenFileWriter::finish_together(std::span<TokenFileWriter* const> writers, const fs::path& split) {
  for (TokenFileWriter* writer : writers) writer->seal();
  std::vector<fs::path> outdated;
  for (const char* part : kParts) {
    const auto is_part = [&](const TokenFileWriter* writer) { return writer->prefix_ == split / part; };
    if (!split.empty() && std::none_of(writers.begin(), writers.end(), is_part)) outdated.push_back(split / part);
  }
  std::erase_if(outdated, [](const fs::path& prefix) { return !is_pair(prefix); });
  // An index that is there describes other tokens: a crash between the renames must leave none.
  for (const fs::path& prefix : outdated) fs::remove(with_suffix(prefix, ".idx"));
  for (TokenFileWriter* writer : writers) fs::remove(with_suffix(writer->prefix_, ".idx"));
  for (TokenFileWriter* writer : writers) writer->publish_tokens();
  for (const fs::path& prefix : outdated) {
    fs::remove(with_suffix(prefix, ".bin"));
    if (has_sidecar(prefix)) fs::remove(sidecar_path(prefix));
  }
  for (auto writer = writers.rbegin(); writer != writers.rend(); ++writer) (*writer)->idx_.publish();
}

TokenFile::TokenFile(const fs::path& prefix) : prefix_(existing_prefix(prefix)), bin_(with_suffix(prefix_, ".bin")) {
  const MappedFile index(with_suffix(prefix_, ".idx"));
  index_ = parse_token_index(index.bytes(), bytes(), index.path().string());
  index_hash_ = xxh3_64(index.bytes());
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
  marks_ = sidecar->marks;
  largest_token_ = sidecar->largest_token;
}

TokenRange TokenFile::range(const std::function<void(uint64_t, uint64_t)>& progress) const {
  if (largest_token_) return {0, *largest_token_};
  constexpr size_t kBlock = size_t{16} << 20;
  const size_t width = index_.width, total = static_cast<size_t>(tokens()) * width;
  TokenRange range;
  size_t done = 0;
  const auto scan = [&](size_t begin, size_t end) {
    while (begin < end) {
      const size_t piece = std::min(kBlock, end - begin);
      range.add(bin_.bytes().subspan(begin, piece), dtype_code());
      begin += piece, done += piece;
      if (progress) progress(done, total);
    }
  };
  // Sequences mostly lie one after another: a stretch of them at a time.
  size_t begin = 0, end = 0;
  for (size_t i = 0; i < index_.sequence_offset.size(); ++i) {
    const auto at = static_cast<size_t>(index_.sequence_offset[i]);
    const auto length = static_cast<size_t>(index_.sequence_begin[i + 1] - index_.sequence_begin[i]);
    if (at != end) scan(std::exchange(begin, at), end);
    end = at + length * width;
  }
  scan(begin, end);
  return range;
}

int64_t TokenFile::document_of(int64_t position) const {
  check(position >= 0 && position < tokens(), "[token file] '{}': expected a position in [0, {}), got {}",
        prefix_.string(), tokens(), position);
  return std::upper_bound(index_.document_begin.begin(), index_.document_begin.end(), position) -
         index_.document_begin.begin() - 1;
}

void TokenFile::read(int64_t position, std::span<int64_t> out) const {
  check(position >= 0 && position <= tokens() && out.size() <= static_cast<size_t>(tokens() - position),
        "[token file] '{}': cannot read {} tokens at {}, there are {}", prefix_.string(), out.size(), position,
        tokens());
  auto sequence =
      static_cast<size_t>(std::upper_bound(index_.sequence_begin.begin(), index_.sequence_begin.end(), position) -
                          index_.sequence_begin.begin() - 1);
  for (; !out.empty(); ++sequence) {
    const int64_t skip = position - index_.sequence_begin[sequence];
    const size_t count = std::min(out.size(), static_cast<size_t>(index_.sequence_begin[sequence + 1] - position));
    const std::byte* from =
        bin_.bytes().data() + index_.sequence_offset[sequence] + skip * static_cast<int64_t>(index_.width);
    with_token_dtype(dtype_code(), [&]<class T>(T value) {
      for (size_t i = 0; i < count; ++i) {
        std::memcpy(&value, from + i * sizeof(T), sizeof(T));  // foreign files need not be aligned
        out[i] = value;  // NOLINT(bugprone-signed-char-misuse): i8 tokens are numbers, not characters
      }
    });
    out = out.subspan(count);
    position += static_cast<int64_t>(count);
  }
}

std::string TokenFile::fingerprint() const {
  return data_fingerprint(index_hash_, bin_.bytes());
}

void check_tokenizer(const TokenFile& file, const Tokenizer& tokenizer) {
  check_tokenizer(file.tokenizer(), file.prefix(), tokenizer);
}

}  // namespace megalodon::data
