#include "data/loader.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/check.h"
#include "base/philox.h"
#include "data/packing.h"

namespace megalodon::data {
namespace {

/// The most sequences that a row can go on for: with all rows of a batch in use, each corpus's share of them reads it
/// once. Falls with the batch; 0 where the corpora are too short for it.
int64_t longest_segment(const std::vector<Corpus>& corpora, int64_t batch, int64_t length) {
  const auto size = [](const Corpus& corpus) {
    return corpus.weight > 0 ? corpus.weight : static_cast<double>(corpus.file->tokens());
  };
  double sum = 0;
  for (const Corpus& corpus : corpora) sum += size(corpus);
  int64_t longest = std::numeric_limits<int64_t>::max();
  for (const Corpus& corpus : corpora) {
    const double rows = std::ceil(static_cast<double>(batch) * (size(corpus) / sum));
    const int64_t sequences = std::max<int64_t>(corpus.file->tokens() - length, 0) / length;
    longest = std::min(longest, sequences / std::max<int64_t>(static_cast<int64_t>(rows), 1));
  }
  return longest;
}

/// As long as the corpora allow. Throws Error where no row would ever go on.
int64_t automatic_segment(const std::vector<Corpus>& corpora, const LoaderOptions& options) {
  constexpr int64_t kShortest = 2;  // with 1 all rows begin anew at every batch
  const int64_t longest = longest_segment(corpora, options.batch, options.length);
  if (longest >= kShortest) return longest;
  int64_t works = 0, fails = options.batch;
  while (fails - works > 1) {
    const int64_t middle = works + (fails - works) / 2;
    (longest_segment(corpora, middle, options.length) >= kShortest ? works : fails) = middle;
  }
  check(
      works > 0,
      "[loader] packing = \"stateful\": the corpora are too short for a single row of two sequences of {} tokens; give "
      "shorter sequences or another packing",
      options.length);
  fail(
      "[loader] packing = \"stateful\": the corpora are too short for a batch of {}, whose rows would begin anew with "
      "each sequence of {} tokens; the largest batch that works is {}",
      options.batch, options.length, works);
}

LoaderOptions validated(const std::vector<Corpus>& corpora, LoaderOptions options) {
  check(options.batch >= 1, "[loader] batch must be at least 1, got {}", options.batch);
  check(options.length >= 1, "[loader] length must be at least 1, got {}", options.length);
  check(options.segment >= 0, "[loader] segment must not be negative, got {}", options.segment);
  check(!corpora.empty(), "[loader] expected a corpus, got none");
  for (const Corpus& corpus : corpora)
    check((corpus.weight > 0) == (corpora.front().weight > 0), "[loader] give every corpus a weight or none");
  if (options.packing != Packing::kStateful) {
    options.segment = 1;
  } else if (options.segment == 0) {
    options.segment = automatic_segment(corpora, options);
  }
  return options;
}

std::vector<std::unique_ptr<Sequences>> open(const std::vector<Corpus>& corpora, const LoaderOptions& options) {
  std::vector<std::unique_ptr<Sequences>> list;
  for (const Corpus& corpus : corpora) {
    SequenceOptions sequence{options.length, options.segment, options.seed, options.shuffle};
    // Corpora of one length would be read in the same order: of no harm unless they are the same.
    if (!list.empty()) sequence.seed = derive_key(options.seed, list.size());
    if (options.packing == Packing::kDocuments) {
      list.push_back(std::make_unique<PackedSequences>(*corpus.file, sequence));
    } else {
      list.push_back(std::make_unique<StreamSequences>(*corpus.file, sequence));
    }
  }
  return list;
}

Mixture mix(const std::vector<Corpus>& corpora, const std::vector<std::unique_ptr<Sequences>>& sequences) {
  std::vector<double> shares;
  std::vector<int64_t> sizes;
  for (size_t i = 0; i < corpora.size(); ++i) {
    // Weights are of tokens: a corpus with more padding gets more sequences for the same weight.
    shares.push_back(corpora[i].weight / sequences[i]->fill());
    sizes.push_back(sequences[i]->per_epoch());
  }
  return corpora.front().weight > 0 ? Mixture::of_shares(shares) : Mixture(std::move(sizes));
}

}  // namespace

Loader::Loader(std::vector<Corpus> corpora, LoaderOptions options)
    : options_(validated(corpora, options)), sequences_(open(corpora, options_)), mixture_(mix(corpora, sequences_)) {}

void Loader::seek(int64_t position) {
  check(position >= 0, "[loader] position must not be negative, got {}", position);
  check(options_.packing != Packing::kStateful || position % options_.batch == 0,
        "[loader] position must be a multiple of the batch, {}, where rows go on from batch to batch, got {}",
        options_.batch, position);
  position_ = position;
}

int64_t Loader::sequences_per_epoch() const {
  int64_t sum = 0;
  for (const auto& sequences : sequences_) sum += sequences->per_epoch();
  return sum;
}

Batch Loader::next() {
  const int64_t rows = options_.batch, segment = options_.segment;
  const auto length = static_cast<size_t>(options_.length), size = static_cast<size_t>(rows) * length;
  Batch batch{rows, options_.length, std::vector<int64_t>(size), std::vector<int64_t>(size),
              std::vector<uint8_t>(size)};
  // Batches come in rounds of `segment`, in which row i reads segment i of the round, sequence after sequence. Where
  // the segment is one sequence, position and segment are the same number.
  const int64_t part = position_ / rows % segment;
  const int64_t first = segment == 1 ? position_ : position_ / (rows * segment) * rows;
  for (int64_t i = 0; i < rows; ++i) {
    const auto [corpus, index] = mixture_.at(first + i);
    const auto at = static_cast<size_t>(i) * length;
    sequences_[corpus]->read(index * segment + part,
                             {std::span(batch.tokens).subspan(at, length), std::span(batch.targets).subspan(at, length),
                              std::span(batch.starts).subspan(at, length)});
  }
  batch.continues = part > 0;
  position_ += rows;
  return batch;
}

std::vector<CorpusUse> Loader::uses(int64_t positions) const {
  const int64_t round = options_.batch * options_.segment, rounds = positions / round;
  const auto whole = mixture_.counts(rounds * options_.batch), next = mixture_.counts((rounds + 1) * options_.batch);
  const double part = static_cast<double>(positions % round) / static_cast<double>(round);
  std::vector<CorpusUse> uses(sequences_.size());
  double sum = 0;
  for (size_t i = 0; i < uses.size(); ++i) {
    const double segments = static_cast<double>(whole[i]) + part * static_cast<double>(next[i] - whole[i]);
    const auto per_epoch = static_cast<double>(sequences_[i]->per_epoch());
    uses[i].fill = sequences_[i]->fill();
    uses[i].epochs = segments * static_cast<double>(options_.segment) / per_epoch;
    sum += uses[i].share = mixture_.share(i) * uses[i].fill;
  }
  for (CorpusUse& use : uses) use.share /= sum;
  return uses;
}

}  // namespace megalodon::data
