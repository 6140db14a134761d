#include "data/packing.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "base/check.h"
#include "base/parallel.h"
#include "base/permutation.h"

namespace megalodon::data {
namespace {

// A pool's last sequences are its worst: at 256 sequences a pool they hardly count. The limits bound what a pool takes
// (a document is 16 bytes) and let long documents, whose last pieces are what gets packed, find company.
constexpr int64_t kSequencesPerPool = 256, kFewestDocuments = 64, kMostDocuments = 65536;

constexpr uint64_t kDocumentStream = 0x7061636B;  // the order in which documents fall into pools

int64_t documents_per_pool(const TokenFile& file, int64_t length) {
  const double documents_per_sequence =
      static_cast<double>(length) * static_cast<double>(file.documents()) / static_cast<double>(file.tokens());
  return std::clamp(static_cast<int64_t>(kSequencesPerPool * documents_per_sequence), kFewestDocuments, kMostDocuments);
}

uint64_t shuffled(int64_t value, int64_t count, uint64_t key) {
  return permute(static_cast<uint64_t>(value), static_cast<uint64_t>(count), key);
}

}  // namespace

PackedPieces pack(std::vector<Piece> pieces, int64_t capacity) {
  std::stable_sort(pieces.begin(), pieces.end(), [](const Piece& a, const Piece& b) { return a.count > b.count; });
  std::map<int64_t, std::vector<size_t>> open;  // sequences by the room left in them
  std::vector<size_t> home(pieces.size()), sizes;
  for (size_t i = 0; i < pieces.size(); ++i) {
    const auto roomy = open.lower_bound(pieces[i].count);
    int64_t room = capacity;
    if (roomy == open.end()) {
      home[i] = sizes.size();
      sizes.push_back(0);
    } else {
      room = roomy->first;
      home[i] = roomy->second.back();
      roomy->second.pop_back();
      if (roomy->second.empty()) open.erase(roomy);
    }
    ++sizes[home[i]];
    if (room > pieces[i].count) open[room - pieces[i].count].push_back(home[i]);
  }
  PackedPieces packed;
  for (const size_t size : sizes) packed.first.push_back(packed.first.back() + size);
  std::vector<size_t> next(packed.first.begin(), packed.first.end() - 1);
  packed.pieces.resize(pieces.size());
  for (size_t i = 0; i < pieces.size(); ++i) packed.pieces[next[home[i]]++] = pieces[i];
  return packed;
}

PackedSequences::PackedSequences(const TokenFile& file, const SequenceOptions& options)
    : file_(file), options_(options) {
  int64_t pairs = 0;
  for (int64_t document = 0; document < file.documents(); ++document)
    pairs += std::max<int64_t>(file.document_length(document) - 1, 0);
  check(pairs > 0, "[loader] '{}' has no document of two tokens or more: nothing to predict", file.prefix().string());
  documents_per_pool_ = documents_per_pool(file, options.length);
  pools_ = (file.documents() + documents_per_pool_ - 1) / documents_per_pool_;
  pool_sequences_.resize(static_cast<size_t>(pools_));
  parallel_for(pools_, [&](int64_t pool) { pool_sequences_[static_cast<size_t>(pool)] = pack_pool(pool).sequences(); });
  per_epoch_ = std::accumulate(pool_sequences_.begin(), pool_sequences_.end(), int64_t{0});
  fill_ = static_cast<double>(pairs) / (static_cast<double>(per_epoch_) * static_cast<double>(options.length));
  scratch_.resize(static_cast<size_t>(options.length) + 1);
}

PackedPieces PackedSequences::pack_pool(int64_t pool) const {
  const uint64_t key = derive_key(options_.seed, kDocumentStream);
  const int64_t end = std::min((pool + 1) * documents_per_pool_, file_.documents());
  std::vector<Piece> pieces;
  for (int64_t i = pool * documents_per_pool_; i < end; ++i) {
    const int64_t document = options_.shuffle ? static_cast<int64_t>(shuffled(i, file_.documents(), key)) : i;
    const int64_t begin = file_.document_begin(document), last = begin + file_.document_length(document) - 1;
    for (int64_t at = begin; at < last; at += options_.length)
      pieces.push_back({at, std::min(options_.length, last - at)});
  }
  return pack(std::move(pieces), options_.length);
}

/// The pool that comes `place`-th in the epoch.
int64_t PackedSequences::pool_at(int64_t epoch, int64_t place) const {
  if (!options_.shuffle) return place;
  return static_cast<int64_t>(shuffled(place, pools_, epoch_key(options_.seed, epoch)));
}

/// Packs the pool of sequence `slot` of the epoch.
void PackedSequences::open(int64_t epoch, int64_t slot) {
  if (epoch != epoch_) {
    pool_end_.clear();
    int64_t end = 0;
    for (int64_t place = 0; place < pools_; ++place)
      pool_end_.push_back(end += pool_sequences_[static_cast<size_t>(pool_at(epoch, place))]);
    epoch_ = epoch;
  }
  const int64_t place = std::upper_bound(pool_end_.begin(), pool_end_.end(), slot) - pool_end_.begin();
  const int64_t pool = pool_at(epoch, place);
  pool_begin_ = place == 0 ? 0 : pool_end_[static_cast<size_t>(place) - 1];
  if (pool == pool_) return;
  open_ = pack_pool(pool);
  pool_ = pool;
}

void PackedSequences::read(int64_t index, Row row) {
  const int64_t epoch = index / per_epoch_, slot = index % per_epoch_;
  open(epoch, slot);
  auto sequence = static_cast<size_t>(slot - pool_begin_);
  if (options_.shuffle)
    sequence = shuffled(slot - pool_begin_, open_.sequences(),
                        derive_key(epoch_key(options_.seed, epoch), static_cast<uint64_t>(pool_)));
  std::fill(row.starts.begin(), row.starts.end(), uint8_t{0});
  size_t at = 0;
  for (size_t i = open_.first[sequence]; i < open_.first[sequence + 1]; ++i) {
    const auto [begin, count] = open_.pieces[i];
    const std::span<int64_t> tokens(scratch_.data(), static_cast<size_t>(count) + 1);
    file_.read(begin, tokens);
    std::copy(tokens.begin(), tokens.end() - 1, row.tokens.begin() + static_cast<int64_t>(at));
    std::copy(tokens.begin() + 1, tokens.end(), row.targets.begin() + static_cast<int64_t>(at));
    row.starts[at] = 1;
    at += static_cast<size_t>(count);
  }
  if (at == row.tokens.size()) return;
  // Padding is a document of its own, of a token that every vocabulary has, and nobody asks what comes next.
  std::fill(row.tokens.begin() + static_cast<int64_t>(at), row.tokens.end(), 0);
  std::fill(row.targets.begin() + static_cast<int64_t>(at), row.targets.end(), kIgnoreTarget);
  row.starts[at] = 1;
}

}  // namespace megalodon::data
