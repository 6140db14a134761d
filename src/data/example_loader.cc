#include "data/example_loader.h"

#include <algorithm>

#include "base/check.h"
#include "base/permutation.h"
#include "data/sequences.h"

namespace megalodon::data {

ExampleLoader::ExampleLoader(const ExampleFile& file, ExampleLoaderOptions options) : file_(file), options_(options) {
  check(options.batch >= 1, "[example loader] batch must be at least 1, got {}", options.batch);
  check(options.longest >= 0, "[example loader] longest must not be negative, got {}", options.longest);
}

void ExampleLoader::seek(int64_t position) {
  check(position >= 0, "[example loader] position must not be negative, got {}", position);
  position_ = position;
}

int64_t ExampleLoader::example_at(int64_t position) const {
  const int64_t epoch = position / file_.size(), slot = position % file_.size();
  if (!options_.shuffle) return slot;
  return static_cast<int64_t>(
      permute(static_cast<uint64_t>(slot), static_cast<uint64_t>(file_.size()), epoch_key(options_.seed, epoch)));
}

ExampleBatch::Side ExampleLoader::read_side(const std::vector<int64_t>& examples, int64_t sequence) const {
  ExampleBatch::Side side;
  for (const int64_t example : examples) {
    const int64_t length = file_.length(example, sequence);
    side.lengths.push_back(options_.longest > 0 ? std::min(length, options_.longest) : length);
  }
  side.length = *std::max_element(side.lengths.begin(), side.lengths.end());
  const auto row = static_cast<size_t>(side.length * file_.width());
  if (file_.holds_tokens()) {
    side.tokens.resize(examples.size() * row);
  } else {
    side.vectors.resize(examples.size() * row);
  }
  for (size_t i = 0; i < examples.size(); ++i) {
    const auto used = static_cast<size_t>(side.lengths[i] * file_.width());
    if (file_.holds_tokens()) {
      file_.read_tokens(examples[i], sequence, std::span(side.tokens).subspan(i * row, used));
    } else {
      file_.read_vectors(examples[i], sequence, std::span(side.vectors).subspan(i * row, used));
    }
  }
  return side;
}

ExampleBatch ExampleLoader::next() {
  ExampleBatch batch;
  batch.examples = options_.batch;
  std::vector<int64_t> examples;
  for (int64_t i = 0; i < batch.examples; ++i) {
    examples.push_back(example_at(position_ + i));
    batch.labels.push_back(file_.label(examples.back()));
  }
  for (int64_t sequence = 0; sequence < file_.sequences(); ++sequence)
    batch.sides.push_back(read_side(examples, sequence));
  position_ += batch.examples;
  return batch;
}

}  // namespace megalodon::data
