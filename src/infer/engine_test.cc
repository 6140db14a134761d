#include "infer/engine.h"

#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <random>
#include <set>

#include "base/check.h"
#include "base/temporary_folder.h"
#include "infer/snapshot.h"
#include "models/architecture_testing.h"
#include "models/testing.h"
#include "models/weights.h"
#include "ops/device.h"
#include "ops/testing.h"

namespace megalodon {
namespace {

using testing::Architecture;
using testing::close;
using testing::noisy_model;
using testing::random_tokens;
using testing::tiny_config;
using Tokens = std::vector<int64_t>;

Tokens to_vector(const Tensor& tokens_L) {
  return {tokens_L.data_ptr<int64_t>(), tokens_L.data_ptr<int64_t>() + tokens_L.numel()};
}

class EngineTest : public ::testing::Test {
 protected:
  static constexpr int64_t kLength = 61;  // seven chunks and a part of the eighth

  Tokens text(int64_t seed) const { return to_vector(random_tokens(config_, 1, kLength, seed)[0]); }

  /// Logits [L,V] of one pass over a whole text.
  Tensor expected(const Tokens& tokens) const {
    torch::NoGradGuard no_grad;
    NoCarry none;
    return model_->logits({torch::tensor(tokens).unsqueeze(0), {}}, none)[0];
  }

  void expect_at_the_end_of(const Stream& stream, const Tensor& expected_LV) const {
    const Tensor& row = expected_LV[stream.tokens() - 1];
    EXPECT_TRUE(close(stream.logits(), row, 1e-5)) << "after " << stream.tokens() << " tokens";
    EXPECT_EQ(stream.logits().argmax().item<int64_t>(), row.argmax().item<int64_t>());
  }

  MegalodonConfig config_ = tiny_config();
  std::unique_ptr<Model> model_ = noisy_model(config_);
};

/// Streams that come and go, read stretches of any length, step together with changing neighbours, and are copied: the
/// logits are always those of one pass.
TEST_F(EngineTest, AnySplitAmongAnyNeighboursIsOnePass) {
  constexpr size_t kTexts = 4;
  std::vector<Tokens> texts;
  std::vector<Tensor> logits;
  for (size_t i = 0; i < kTexts; ++i)
    texts.push_back(text(static_cast<int64_t>(i))), logits.push_back(expected(texts[i]));
  std::mt19937 random(1);
  const auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
  for (const int64_t block : {3, 16, 1000}) {
    const Engine engine(*model_, {.block = block});
    for (int round = 0; round < 100; ++round) {
      std::vector<Stream> streams(kTexts);
      const auto left = [&](size_t i) { return kLength - streams[i].tokens(); };
      for (int action = 0; action < 30; ++action) {
        const auto i = static_cast<size_t>(below(kTexts));
        const auto at = static_cast<size_t>(streams[i].tokens());
        switch (below(4)) {
          case 0: {  // a stretch
            const auto count = static_cast<size_t>(std::min(left(i), 1 + below(20)));
            if (count == 0) continue;
            engine.read(streams[i], std::span(texts[i]).subspan(at, count));
            expect_at_the_end_of(streams[i], logits[i]);
            break;
          }
          case 1:  // back to the beginning
            if (left(i) == 0) streams[i] = Stream();
            break;
          case 2: {  // a copy goes its own way
            Stream copy = streams[i];
            if (left(i) == 0) continue;
            const Tokens other(5, 1);
            engine.read(copy, other);
            break;
          }
          default: {
            std::vector<Stream*> batch;
            Tokens next;
            std::vector<size_t> who;
            for (size_t j = 0; j < kTexts; ++j) {
              if (left(j) == 0 || below(3) == 0) continue;
              batch.push_back(&streams[j]), who.push_back(j);
              next.push_back(texts[j][static_cast<size_t>(streams[j].tokens())]);
            }
            engine.step(batch, next);
            for (const size_t j : who) expect_at_the_end_of(streams[j], logits[j]);
          }
        }
      }
    }
  }
}

TEST_F(EngineTest, ACacheOfBfloat16DoesNotDependOnTheSplitEither) {
  const Engine engine(*model_, {.cache_type = torch::kBFloat16});
  const Tokens tokens = text(5);
  Stream whole, single;
  engine.read(whole, tokens);
  for (const int64_t& token : tokens) engine.read(single, {&token, 1});
  EXPECT_TRUE(close(single.logits(), whole.logits(), 1e-5));
  EXPECT_TRUE(close(whole.logits(), expected(tokens)[kLength - 1], 2e-2));
}

/// With fixed matrices not a bit depends on the batch, so that greedy texts never do; and how far a type's rounding
/// goes.
TEST_F(EngineTest, NeighboursChangeNoBitOfAFixedModel) {
  const Tokens tokens = text(1), other = text(2);
  const Tensor exact = expected(tokens);
  const std::map<ops::FixedType, double> bounds = {{ops::FixedType::kFloat32, 1e-5},
                                                   {ops::FixedType::kBfloat16, 2e-2},
                                                   {ops::FixedType::kQ8, 4e-2},
                                                   {ops::FixedType::kQ4, 0.5}};
  std::set<std::string> fingerprints;
  for (const auto& [type, bound] : bounds) {
    const auto model = noisy_model(config_);
    model->fix(type);
    const Engine engine(*model);
    fingerprints.insert(engine.fingerprint());
    Stream alone, together, neighbour;
    engine.read(neighbour, std::span(other).first(13));
    for (size_t i = 0; i < tokens.size(); ++i) {
      engine.read(alone, {&tokens[i], 1});
      Stream* const batch[] = {&neighbour, &together};
      engine.step(i % 5 == 0 ? std::span(batch).last(1) : std::span(batch),
                  i % 5 == 0 ? Tokens{tokens[i]} : Tokens{other[i], tokens[i]});
      ASSERT_TRUE(torch::equal(together.logits(), alone.logits())) << ops::name_of(type) << ", token " << i;
    }
    EXPECT_TRUE(close(alone.logits(), exact[kLength - 1], bound)) << ops::name_of(type);
    EXPECT_EQ(model->info().parameters, model_->info().parameters);
    torch::NoGradGuard no_grad;
    NoCarry none, again;
    const ModelInput input{torch::tensor(tokens).unsqueeze(0), {}};
    const Tensor targets_BL = torch::tensor(other).unsqueeze(0);
    EXPECT_TRUE(close(model->nll(input, targets_BL, none), model_->nll(input, targets_BL, again), bound))
        << ops::name_of(type);
  }
  EXPECT_EQ(fingerprints.size(), bounds.size()) << "a state is of no use to the same model in another type";
}

/// Copies share what they have read, and neither sees what the other reads.
TEST_F(EngineTest, CopiesAreIndependent) {
  const Engine engine(*model_);
  const Tokens tokens = text(1), other = text(2);
  Stream stream;
  engine.read(stream, std::span(tokens).first(21));
  Stream copy = stream;
  engine.read(copy, other);
  engine.read(stream, std::span(tokens).subspan(21));
  expect_at_the_end_of(stream, expected(tokens));
  Tokens joined(tokens.begin(), tokens.begin() + 21);
  joined.insert(joined.end(), other.begin(), other.end());
  expect_at_the_end_of(copy, expected(joined));
}

/// Counts the operators in which a host waits for a GPU, on this thread.
class Waits {
 public:
  Waits() {
    count = 0;
    handle_ = at::addThreadLocalCallback(at::RecordFunctionCallback(&seen));
  }
  ~Waits() { at::removeCallback(handle_); }
  Waits(const Waits&) = delete;
  Waits& operator=(const Waits&) = delete;

  static inline int64_t count = 0;

 private:
  static std::unique_ptr<at::ObserverContext> seen(const at::RecordFunction& call) {
    static const std::set<std::string> waiting = {"aten::_local_scalar_dense", "aten::nonzero",
                                                  "aten::masked_select",       "aten::equal",
                                                  "aten::unique_dim",          "aten::_unique2"};
    if (waiting.contains(call.name())) ++count;
    return nullptr;
  }
  at::CallbackHandle handle_;
};

/// As a GPU repeats a step, with the same places.
class RunAgain final : public ops::Recording {
 public:
  explicit RunAgain(std::function<void()> work) : work_(std::move(work)) {}
  void repeat() override {
    const Waits none;
    work_();
    EXPECT_EQ(Waits::count, 0) << "nothing can be asked of a GPU while it repeats a step";
    ++times;
  }
  static inline int64_t times = 0;

 private:
  std::function<void()> work_;
};

ops::Recorder run_again(torch::Device) {
  return [](const std::function<void()>& work) { return std::make_unique<RunAgain>(work); };
}

/// Streams of two engines that do the same: one repeats its steps. What they leave is the same, bit for bit, and stays.
void expect_that_repeated_steps_change_no_bit(const ModelConfig& config) {
  const auto model = noisy_model(config);
  const Engine plain(*model), repeating(*model, {.recorder = run_again});
  constexpr size_t kStreams = 4;
  using Pair = std::array<Stream, 2>;
  const auto expect_equal = [&](const Pair& pair) {
    ASSERT_EQ(pair[0].tokens(), pair[1].tokens());
    if (pair[0].tokens() == 0) return;
    const NamedTensors expected = plain.tensors(pair[0]), got = repeating.tensors(pair[1]);
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i)
      ASSERT_TRUE(torch::equal(got[i].second, expected[i].second)) << got[i].first;
  };
  std::mt19937 random(3);
  const auto below = [&](int64_t limit) { return static_cast<int64_t>(random() % static_cast<uint64_t>(limit)); };
  const auto token = [&] { return below(config.vocabulary()); };
  const auto read = [&](Pair& pair, int64_t count) {
    Tokens tokens;
    for (int64_t i = 0; i < count; ++i) tokens.push_back(token());
    plain.read(pair[0], tokens), repeating.read(pair[1], tokens);
  };
  RunAgain::times = 0;
  std::vector<Pair> streams(kStreams), kept;
  for (Pair& pair : streams) read(pair, 1 + below(10));
  for (int round = 0; round < 40; ++round) {
    // Some leave, in any order the others stay; one reads on alone, goes back to where a copy was kept, or is copied.
    std::shuffle(streams.begin(), streams.end(), random);
    const auto count = static_cast<size_t>(1 + below(kStreams));
    Pair& one = streams[static_cast<size_t>(below(kStreams))];
    switch (below(4)) {
      case 0:
        read(one, 1 + below(12));
        break;
      case 1:
        kept.push_back(one);
        break;
      case 2:
        if (!kept.empty()) one = kept[static_cast<size_t>(below(std::ssize(kept)))];
        break;
      default:
        one = {plain.parked(one[0]), repeating.parked(one[1])};
    }
    for (int64_t steps = below(12); steps >= 0; --steps) {
      std::array<std::vector<Stream*>, 2> batch;
      Tokens next;
      for (size_t i = 0; i < count; ++i) {
        batch[0].push_back(&streams[i][0]), batch[1].push_back(&streams[i][1]);
        next.push_back(token());
      }
      plain.step(batch[0], next), repeating.step(batch[1], next);
      for (size_t i = 0; i < count; ++i)
        ASSERT_TRUE(torch::equal(streams[i][1].logits(), streams[i][0].logits())) << "round " << round;
    }
    for (const Pair& pair : streams) expect_equal(pair);
  }
  EXPECT_GT(RunAgain::times, 50);
  ASSERT_FALSE(kept.empty());
  for (Pair& pair : kept) {
    expect_equal(pair);
    read(pair, 20);
    expect_equal(pair);
  }
}

TEST_P(Architecture, RepeatsItsStepsWhereItsStatesDoNotGrow) {
  if (ops::use_reference()) GTEST_SKIP() << "references read positions on the host: nothing is repeated";
  const ModelInfo info = config().build()->info();
  const bool grows =
      info.cache.slots == 0 && (info.state_bytes_a_token > 0 || info.state_bytes_full > info.state_bytes_fixed);
  EXPECT_EQ(info.repeats_steps, !grows);
  if (info.repeats_steps) expect_that_repeated_steps_change_no_bit(config());
}

TEST(RepeatedSteps, HoldForAdaptiveVocabularies) {
  if (ops::use_reference()) GTEST_SKIP() << "references read positions on the host: nothing is repeated";
  for (const char* preset : {"mega_chunk-tiny", "s4-tiny"}) {
    SCOPED_TRACE(preset);
    expect_that_repeated_steps_change_no_bit(*testing::in_bands(preset));
  }
}

int failed_recordings = 0;

ops::Recorder fail_to_record(torch::Device) {
  return [](const std::function<void()>&) -> std::unique_ptr<ops::Recording> {
    ++failed_recordings;
    fail("nothing can be recorded here");
  };
}

TEST_F(EngineTest, WhatCannotBeRecordedIsNotRepeated) {
  const Engine engine(*model_, {.recorder = fail_to_record});
  const Tokens tokens = text(1);
  Stream stream;
  for (const int64_t& token : tokens) engine.read(stream, {&token, 1});
  expect_at_the_end_of(stream, expected(tokens));
  EXPECT_EQ(failed_recordings, 1) << "once is enough to know";
  EXPECT_FALSE(ops::recorder_of(torch::kCPU));
}

TEST_F(EngineTest, AModelOfFloat64RepeatsNoStep) {
  model_->to(torch::kFloat64);
  const Engine engine(*model_, {.recorder = run_again});
  const Tokens tokens = text(1);
  Stream stream;
  RunAgain::times = 0;
  for (const int64_t& token : tokens) engine.read(stream, {&token, 1});
  EXPECT_TRUE(close(stream.logits(), expected(tokens)[kLength - 1], 1e-5));
  EXPECT_EQ(RunAgain::times, 0);
}

/// Before anything is done, and where nobody could tell any more: in a step that is repeated.
TEST(LearnedPositions, EndWithTheirTable) {
  TransformerConfig config = testing::tiny_transformer("learned");
  config.max_positions = 30;
  for (const int64_t window : {0, 4}) {
    SCOPED_TRACE(window);
    config.layer.window = window;
    const auto model = noisy_model(config);
    const Engine engine(*model, {.block = 8, .recorder = run_again});
    const Tokens tokens = to_vector(random_tokens(config, 1, 30)[0]);
    Stream stream, other;
    EXPECT_THROW(engine.read(stream, Tokens(31)), Error);
    EXPECT_EQ(stream.tokens(), 0);
    engine.read(stream, tokens);
    Stream* const both[] = {&other, &stream};
    try {
      engine.step(both, Tokens{1, 1});
      FAIL();
    } catch (const Error& e) {
      EXPECT_STREQ(e.what(), "[transformer] position 30 is beyond the model's max_positions = 30");
    }
    EXPECT_EQ(other.tokens(), 0);
    for (const int64_t& token : tokens) engine.read(other, {&token, 1});
    EXPECT_TRUE(close(other.logits(), stream.logits(), 1e-5));
    EXPECT_THROW(engine.read(other, Tokens{1}), Error);
  }
}

TEST_F(EngineTest, NothingHappensToAStreamWithoutTokensOrWithImpossibleOnes) {
  const Engine engine(*model_);
  const Tokens tokens = text(3);
  Stream stream;
  engine.read(stream, {});
  EXPECT_EQ(stream.tokens(), 0);
  EXPECT_FALSE(stream.logits().defined());
  engine.read(stream, std::span(tokens).first(9));
  EXPECT_THROW(engine.read(stream, Tokens{0, config_.vocab_size}), Error);
  EXPECT_THROW(engine.read(stream, Tokens{-1}), Error);
  Stream fresh;
  Stream* const fresh_twice[] = {&fresh, &fresh};
  EXPECT_THROW(engine.step(fresh_twice, Tokens{1, 2}), Error);
  EXPECT_EQ(fresh.tokens(), 0);
  Stream* const twice[] = {&stream, &stream};
  EXPECT_THROW(engine.step(twice, Tokens{1, 2}), Error);
  EXPECT_THROW(engine.step({twice, 1}, Tokens{1, 2}), Error);
  engine.read(stream, std::span(tokens).subspan(9));
  expect_at_the_end_of(stream, expected(tokens));
}

TEST_F(EngineTest, SettingsThatCannotBeAreRefused) {
  EXPECT_THROW(Engine(*model_, {.cache_type = torch::kFloat64}), Error);
  EXPECT_THROW(Engine(*model_, {.block = 0}), Error);
}

/// Streams apart, together at different positions, and through a file.
TEST_P(Architecture, AStreamIsOnePassWhereverItsNeighboursStand) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config());
  const Engine engine(*model, {.block = 10});
  const Tensor tokens = random_tokens(config(), 2, 30), expected = testing::one_pass(*model, {tokens, {}});
  const auto text = [&](int64_t row, int64_t begin, int64_t end) {
    return to_vector(tokens[row].slice(0, begin, end).contiguous());
  };
  Stream a, b;
  engine.read(a, text(0, 0, 5));
  engine.read(b, text(1, 0, 14));
  std::vector<Stream*> both = {&a, &b};
  for (int64_t step = 0; step < 7; ++step)
    engine.step(both, Tokens{text(0, 5 + step, 6 + step)[0], text(1, 14 + step, 15 + step)[0]});
  EXPECT_TRUE(close(a.logits(), expected[0][11], 1e-5));
  EXPECT_TRUE(close(b.logits(), expected[1][20], 1e-5));
  const TemporaryFolder folder;
  save_snapshot(folder / "snapshot.safetensors", engine, {a, {}});
  Stream again = load_snapshot(folder / "snapshot.safetensors", engine).stream;
  for (Stream* stream : {&a, &again}) engine.read(*stream, text(0, 12, 30));
  EXPECT_TRUE(close(a.logits(), expected[0][29], 1e-5));
  EXPECT_TRUE(torch::equal(again.logits(), a.logits()));
}

/// Of grouped heads of keys and values, each once.
TEST_P(Architecture, CachesHoldNoMoreThanAStreamWithoutThem) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config());
  const ModelInfo info = model->info();
  const Tensor tokens = random_tokens(config(), 1, 21);
  StreamCarry carry;
  model->hidden({tokens, {}}, carry);
  const Engine engine(*model);
  Stream stream;
  engine.read(stream, to_vector(tokens[0]));
  int64_t cached = 0;
  for (const auto& [name, tensor] : engine.tensors(stream))
    if (name.starts_with("keys") || name.starts_with("values")) cached += 4 * tensor.numel();
  EXPECT_EQ(cached, info.cache.slots > 0 ? carry.bytes() - info.state_bytes_fixed : 0);
}

/// Other shapes, numbers that are not finite, and counts and positions of other streams.
TEST_P(Architecture, AStateThatNoStreamCanHaveIsRefused) {
  torch::NoGradGuard no_grad;
  const auto model = noisy_model(config());
  const Engine engine(*model);
  Stream stream;
  engine.read(stream, to_vector(random_tokens(config(), 1, 21)[0]));
  const NamedTensors tensors = engine.tensors(stream);
  const auto restore = [&](const std::string& name, const Tensor& other, int64_t tokens) {
    std::vector<io::TensorView> views;
    for (const auto& [own, tensor] : tensors) views.push_back(to_view(own, own == name ? other : tensor));
    return engine.restore({views, {}, {}}, tokens);
  };
  EXPECT_EQ(restore("", {}, 21).tokens(), 21);
  bool tells_tokens = false;
  for (const auto& [name, tensor] : tensors) {
    Tensor longer = torch::cat({tensor, tensor}, -1), changed = tensor.clone();
    if (changed.is_floating_point() || changed.is_complex())
      changed.view(-1)[0] = NAN;
    else
      changed.add_(1), tells_tokens = true;
    tells_tokens |= name.starts_with("keys");
    EXPECT_THROW(restore(name, longer, 21), Error) << name;
    EXPECT_THROW(restore(name, changed, 21), Error) << name;
  }
  if (tells_tokens) {
    EXPECT_THROW(restore("", {}, 22), Error);
  }
}

}  // namespace
}  // namespace megalodon
