#include "train/step.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "train/testing.h"

namespace megalodon {
namespace {

class Step : public testing::TrainingTest {
 protected:
  std::unique_ptr<Model> model(bool dropout) const {
    const RunConfig run = tiny_run("run");
    auto config = run.model->clone();
    if (!dropout)
      config::read(*config, {{"dropout", 0.0}, {"hidden_dropout", 0.0}, {"attention_dropout", 0.0}}, {}, "test");
    auto model = config->build();
    model->init_weights(3);
    return model;
  }

  /// `count` batches of `rows` sequences each, from the beginning of the corpus.
  std::vector<BatchTensors> batches(const Model& model, int64_t count, int64_t rows) const {
    const data::TokenFile corpus(folder_ / "train");
    data::Loader loader(corpus, {rows, 16, 5});
    std::vector<BatchTensors> list;
    for (int64_t i = 0; i < count; ++i) list.push_back(to_tensors(loader.next(), model.config(), "train"));
    return list;
  }
};

TEST_F(Step, AccumulatedGradientsEqualThoseOfOneBatch) {
  const auto whole = model(false), parts = model(false);
  whole->train(), parts->train();
  const auto split = batches(*parts, 4, 1);
  std::set<int64_t> counts;
  for (const auto& batch : split) counts.insert((batch.targets_BL >= 0).sum().item<int64_t>());
  ASSERT_GT(counts.size(), 1U) << "micro-batches of equal weight would not tell a mean of means from the mean";
  const double one = *backward_mean_loss(*whole, batches(*whole, 1, 4), nullptr, [](size_t) {});
  const double four = *backward_mean_loss(*parts, split, nullptr, [](size_t) {});
  EXPECT_NEAR(one, four, 1e-5);
  const auto expected = whole->named_parameters(), got = parts->named_parameters();
  for (const auto& item : expected) {
    const Tensor a = item.value().grad(), b = got[item.key()].grad();
    ASSERT_TRUE(a.defined() && b.defined()) << item.key();
    EXPECT_LE((a - b).abs().max().item<double>(), 2e-5 * a.abs().max().item<double>() + 1e-7) << item.key();
  }
}

TEST_F(Step, TheLossIsTheMeanOverTargets) {
  const auto net = model(false);
  net->train();
  const auto list = batches(*net, 1, 3);
  NoCarry carry;
  const Tensor nll = net->nll(list[0].input, list[0].targets_BL, carry);
  const double expected = nll.sum().item<double>() / (list[0].targets_BL >= 0).sum().item<double>();
  EXPECT_NEAR(*backward_mean_loss(*net, list, nullptr, [](size_t) {}), expected, 1e-5);
}

TEST_F(Step, EvaluationDoesNotDependOnTheBatchAndRestoresTheMode) {
  const auto net = model(true);
  net->train();
  const data::TokenFile corpus(folder_ / "valid");
  const data::ByteTokenizer bytes;
  const auto ones = evaluate(*net, corpus, bytes, {.batch = 1, .length = 16});
  EXPECT_TRUE(net->is_training());
  const auto threes = evaluate(*net, corpus, bytes, {.batch = 3, .length = 16});
  ASSERT_TRUE(ones && threes);
  EXPECT_EQ(ones->targets, threes->targets);
  EXPECT_NEAR(ones->loss, threes->loss, 1e-5);
  EXPECT_NEAR(*ones->bits_per_byte, ones->loss / std::log(2.0), 1e-9);
  // 3 documents of 40, 45 and 50 bytes: 8 sequences of 16 hold 128 targets, two of which would be of another document.
  EXPECT_EQ(ones->targets, 126);

  const auto two = evaluate(*net, corpus, bytes, {.batch = 3, .length = 16, .tokens = 32});
  EXPECT_EQ(two->targets, 32);
  EXPECT_FALSE(evaluate(*net, corpus, bytes, {.batch = 1, .length = 16, .stop = [] { return true; }}));
}

TEST_F(Step, DocumentsInsideASequenceAreMarked) {
  const auto net = model(false);
  const auto list = batches(*net, 15, 1);
  EXPECT_TRUE(std::any_of(list.begin(), list.end(), [](const auto& b) { return b.input.starts_BL.defined(); }));
  for (const auto& batch : list) {
    if (batch.input.starts_BL.defined()) {
      EXPECT_GT(batch.input.starts_BL.sum().item<int64_t>(), 1);
    }
    EXPECT_EQ(batch.input.tokens_BL.sizes(), (std::vector<int64_t>{1, 16}));
  }
}

TEST_F(Step, ContinuingBatchesSeeTheirPast) {
  const auto net = model(false);
  net->train();
  const data::TokenFile corpus(folder_ / "train");
  data::Loader loader(corpus, {2, 16, 5, true, data::Packing::kStateful});
  std::vector<BatchTensors> list;
  std::vector<Tensor> tokens, targets, starts;
  for (int64_t i = 0; i < loader.segment(); ++i) {
    data::Batch batch = loader.next();
    list.push_back(to_tensors(batch, net->config(), "train"));
    tokens.push_back(list.back().input.tokens_BL);
    targets.push_back(list.back().targets_BL);
    starts.push_back(torch::from_blob(batch.starts.data(), {2, 16}, torch::kUInt8).to(torch::kBool));
  }
  ASSERT_GT(list.size(), 3U);
  // Whole rows in one pass.
  NoCarry none;
  const Tensor targets_BL = torch::cat(targets, 1);
  const Tensor nll_BL = net->nll({torch::cat(tokens, 1), torch::cat(starts, 1)}, targets_BL, none);
  const double expected = nll_BL.sum().item<double>() / (targets_BL >= 0).sum().item<double>();
  StreamCarry carry;
  EXPECT_NEAR(*backward_mean_loss(*net, list, &carry, [](size_t) {}), expected, 1e-5);
  EXPECT_GT(std::abs(*backward_mean_loss(*net, list, nullptr, [](size_t) {}) - expected), 1e-4) << "the past is lost";
  // The first batch begins anew, whatever was carried.
  const double first = *backward_mean_loss(*net, {list[0]}, nullptr, [](size_t) {});
  EXPECT_EQ(*backward_mean_loss(*net, {list[0]}, &carry, [](size_t) {}), first);
}

TEST_F(Step, EvaluationCarriesRowsOn) {
  const auto net = model(true);
  const data::ByteTokenizer bytes;
  const fs::path prefix = put_documents("long", {std::vector<int32_t>(16 * 14 + 1)}, 256);
  put("long.bin", read_file(folder_ / "train.bin").substr(0, 16 * 14 + 1));
  const data::TokenFile corpus(prefix);
  const auto loss = [&](EvaluationOptions options) { return evaluate(*net, corpus, bytes, options)->loss; };
  // One row that goes on from sequence to sequence is one long sequence.
  const double whole = loss({.batch = 1, .length = 16 * 14});
  EXPECT_NEAR(loss({.batch = 1, .length = 16, .segment = 14}), whole, 1e-5);
  EXPECT_NEAR(loss({.batch = 1, .length = 16, .segment = 99}), whole, 1e-5);
  EXPECT_GT(std::abs(loss({.batch = 1, .length = 16}) - whole), 1e-4) << "the past makes a difference";
  // 14 sequences for four rows: four rows of three and, once more, none; two rows are left out.
  EXPECT_EQ(evaluate(*net, corpus, bytes, {.batch = 4, .length = 16, .segment = 99})->targets, 4 * 3 * 16);
  EXPECT_NEAR(loss({.batch = 4, .length = 16, .segment = 99}),
              loss({.batch = 1, .length = 16, .tokens = 192, .segment = 3}), 1e-5);
  // Seven segments of two sequences: four rows, then three.
  EXPECT_NEAR(loss({.batch = 4, .length = 16, .segment = 2}), loss({.batch = 1, .length = 32}), 1e-5);
}

TEST_F(Step, TokensOutsideTheVocabularyAreNamed) {
  const auto net = model(false);
  data::Batch batch{1, 2, {5, 256}, {256, data::kIgnoreTarget}, {1, 0}};
  expect_contains(error_of([&] { to_tensors(batch, net->config(), "corpus/x"); }), {"corpus/x", "256", "vocabulary"});
  batch.tokens = {5, -1};
  expect_contains(error_of([&] { to_tensors(batch, net->config(), "corpus/x"); }), {"-1"});
  batch.tokens = {5, 6};
  expect_contains(error_of([&] { to_tensors(batch, net->config(), "corpus/x"); }), {"256", "predicts"});
}

}  // namespace
}  // namespace megalodon
