#include "data/example_loader.h"

#include <algorithm>

#include "data/testing.h"
#include "data/tokenizer.h"

namespace megalodon::data {
namespace {

class ExampleLoading : public FolderTest {
 protected:
  /// Example i has i + 1 steps, all i + 1, and label i.
  ExampleFile put_examples(int32_t count) const {
    ExampleWriter writer(folder_ / "set", ByteTokenizer());
    for (int32_t i = 0; i < count; ++i) {
      writer.add_tokens(std::vector<int32_t>(static_cast<size_t>(i) + 1, i + 1));
      writer.end_example(i);
    }
    writer.finish({count});
    return ExampleFile(folder_ / "set");
  }
};

std::vector<int64_t> labels(ExampleLoader& loader, int batches) {
  std::vector<int64_t> all;
  for (int i = 0; i < batches; ++i) {
    const auto more = loader.next().labels;
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

TEST_F(ExampleLoading, InOrderWithPaddingAndAcrossEpochs) {
  const ExampleFile file = put_examples(3);
  ExampleLoader loader(file, {.batch = 2, .shuffle = false});
  const ExampleBatch first = loader.next();
  EXPECT_EQ(first.examples, 2);
  EXPECT_EQ(first.labels, (std::vector<int64_t>{0, 1}));
  ASSERT_EQ(first.sides.size(), 1U);
  EXPECT_EQ(first.sides[0].length, 2);
  EXPECT_EQ(first.sides[0].lengths, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(first.sides[0].tokens, (std::vector<int64_t>{1, 0, 2, 2}));
  EXPECT_TRUE(first.sides[0].vectors.empty());
  EXPECT_EQ(loader.position(), 2);
  const ExampleBatch second = loader.next();
  EXPECT_EQ(second.labels, (std::vector<int64_t>{2, 0}));
  EXPECT_EQ(second.sides[0].tokens, (std::vector<int64_t>{3, 3, 3, 1, 0, 0}));
}

TEST_F(ExampleLoading, CutsOffWhatIsBehind) {
  const ExampleFile file = put_examples(5);
  ExampleLoader loader(file, {.batch = 5, .longest = 2, .shuffle = false});
  const ExampleBatch batch = loader.next();
  EXPECT_EQ(batch.sides[0].length, 2);
  EXPECT_EQ(batch.sides[0].lengths, (std::vector<int64_t>{1, 2, 2, 2, 2}));
  EXPECT_EQ(batch.sides[0].tokens, (std::vector<int64_t>{1, 0, 2, 2, 3, 3, 4, 4, 5, 5}));
}

TEST_F(ExampleLoading, EveryEpochHasItsOwnOrderOfAll) {
  const ExampleFile file = put_examples(20);
  ExampleLoader loader(file, {.batch = 4, .seed = 3});
  std::vector<int64_t> all = labels(loader, 10);
  const std::vector<int64_t> first(all.begin(), all.begin() + 20), second(all.begin() + 20, all.end());
  EXPECT_NE(first, second);
  for (std::vector<int64_t> epoch : {first, second}) {
    EXPECT_FALSE(std::is_sorted(epoch.begin(), epoch.end()));
    std::sort(epoch.begin(), epoch.end());
    for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(epoch[static_cast<size_t>(i)], i);
  }
  ExampleLoader same(file, {.batch = 10, .seed = 3}), other(file, {.batch = 10, .seed = 4});
  EXPECT_EQ(labels(same, 4), all) << "the batch does not change the order";
  EXPECT_NE(labels(other, 4), all);
}

TEST_F(ExampleLoading, GoesOnFromAnyPosition) {
  const ExampleFile file = put_examples(7);
  ExampleLoader loader(file, {.batch = 3, .seed = 1}), resumed(file, {.batch = 3, .seed = 1});
  labels(loader, 3);
  resumed.seek(loader.position());
  EXPECT_EQ(labels(resumed, 4), labels(loader, 4));
  EXPECT_EQ(resumed.position(), 21);
  expect_contains(error_of([&] { loader.seek(-1); }), {"negative", "-1"});
  expect_contains(error_of([&] { ExampleLoader(file, {.batch = 0}); }), {"batch", "got 0"});
  expect_contains(error_of([&] { ExampleLoader(file, {.longest = -1}); }), {"longest", "got -1"});
}

TEST_F(ExampleLoading, PairsOfVectors) {
  ExampleWriter writer(folder_ / "set", io::Dtype::F32, 2);
  const std::vector<std::vector<float>> sequences = {{1, 2}, {3, 4, 5, 6}, {7, 8, 9, 10}, {11, 12}};
  for (size_t i = 0; i < 4; ++i) {
    writer.add_vectors(std::span(sequences[i]));
    if (i % 2 == 1) writer.end_example(0);
  }
  writer.finish({1});
  const ExampleFile file(folder_ / "set");
  const ExampleBatch batch = ExampleLoader(file, {.batch = 2, .shuffle = false}).next();
  ASSERT_EQ(batch.sides.size(), 2U);
  EXPECT_EQ(batch.sides[0].lengths, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(batch.sides[0].vectors, (std::vector<float>{1, 2, 0, 0, 7, 8, 9, 10}));
  EXPECT_EQ(batch.sides[1].lengths, (std::vector<int64_t>{2, 1}));
  EXPECT_EQ(batch.sides[1].vectors, (std::vector<float>{3, 4, 5, 6, 11, 12, 0, 0}));
}

}  // namespace
}  // namespace megalodon::data
