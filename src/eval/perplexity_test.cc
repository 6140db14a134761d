#include "eval/perplexity.h"

#include <nlohmann/json.hpp>

#include <cmath>

#include "data/testing.h"
#include "eval/published.h"
#include "models/testing.h"

namespace megalodon {
namespace {

using testing::noisy_model;
using testing::tiny_config;

/// Token = byte of a small alphabet, with or without marks around texts.
class MarkedTokenizer final : public data::Tokenizer {
 public:
  MarkedTokenizer(int64_t vocabulary, data::SpecialTokens marks) : vocabulary_(vocabulary), marks_(marks) {}
  int64_t vocabulary() const override { return vocabulary_; }
  std::vector<int32_t> encode(std::string_view text) const override { return {text.begin(), text.end()}; }
  std::string decode(int32_t token) const override { return std::string(1 + token % 2, 'x'); }
  std::string decode_text(std::span<const int32_t>) const override { return {}; }
  data::SpecialTokens special_tokens() const override { return marks_; }
  nlohmann::ordered_json describe() const override { return {{"type", "marked"}}; }
  std::string fingerprint() const override { return "marked"; }

 private:
  int64_t vocabulary_;
  data::SpecialTokens marks_;
};

class PerplexityTest : public data::CorpusTest {
 protected:
  void SetUp() override {
    data::CorpusTest::SetUp();
    for (const int length : {5, 70, 1, 0, 33, 200, 8, 2}) {
      std::vector<int32_t> text(static_cast<size_t>(length));
      for (int i = 0; i < length; ++i) text[i] = static_cast<int32_t>(3 + (i * i + length) % 16);
      documents_.push_back(std::move(text));
    }
    put_documents("corpus", documents_, config_.vocab_size);
  }

  data::TokenFile corpus() const { return data::TokenFile(folder_ / "corpus"); }

  /// The likelihoods of all tokens but the first, in one pass over this text alone.
  Tensor alone(const std::vector<int32_t>& text) const {
    torch::NoGradGuard no_grad;
    const Tensor tokens = torch::tensor(std::vector<int64_t>(text.begin(), text.end())).unsqueeze(0);
    const int64_t steps = tokens.size(1) - 1;
    NoCarry none;
    return model_->nll({tokens.narrow(1, 0, steps), {}}, tokens.narrow(1, 1, steps), none).to(torch::kFloat64);
  }

  /// Mean loss and count over the documents between those marks, each alone.
  std::pair<double, int64_t> each_alone(const data::SpecialTokens& marks) const {
    double sum = 0;
    int64_t tokens = 0;
    for (std::vector<int32_t> text : documents_) {
      if (marks.bos) text.insert(text.begin(), *marks.bos);
      if (marks.eos) text.push_back(*marks.eos);
      if (text.size() < 2) continue;
      sum += alone(text).sum().item<double>();
      tokens += static_cast<int64_t>(text.size()) - 1;
    }
    return {sum / static_cast<double>(tokens), tokens};
  }

  MegalodonConfig config_ = tiny_config();
  std::unique_ptr<Model> model_ = noisy_model(config_);
  std::vector<std::vector<int32_t>> documents_;
};

TEST_F(PerplexityTest, IsThatOfEachDocumentAloneHoweverItIsRead) {
  const MarkedTokenizer tokenizer(config_.vocab_size, {});
  const auto [loss, count] = each_alone({});
  const int64_t tokens = count;  // clang 14 captures no structured binding
  int64_t bytes = 0;
  for (const auto& document : documents_)
    for (size_t i = 1; i < document.size(); ++i) bytes += 1 + document[i] % 2;
  for (const int64_t stretch : {1, 7, 64, 5000}) {
    PerplexityOptions options;
    options.score.stretch = stretch;
    int64_t progress = 0;
    const auto report = perplexity(*model_, corpus(), tokenizer, options, [&](int64_t done, int64_t total) {
      EXPECT_GE(done, progress);
      EXPECT_EQ(total, tokens);
      progress = done;
    });
    EXPECT_EQ(progress, tokens);
    EXPECT_EQ(report.tokens, tokens);
    EXPECT_EQ(report.bytes, bytes);
    EXPECT_EQ(report.documents, 6);
    EXPECT_NEAR(report.loss, loss, 1e-6 * loss) << stretch;
    EXPECT_DOUBLE_EQ(report.perplexity, std::exp(report.loss));
    ASSERT_EQ(report.by_context.size(), 3u);  // below 64, 128 and 256 tokens
    EXPECT_EQ(report.by_context[1].tokens, 64 + 6);
    const double beyond = alone(documents_[5]).narrow(1, 127, 72).mean().item<double>();
    EXPECT_NEAR(report.by_context[2].loss, beyond, 1e-6 * beyond) << stretch;
  }
}

TEST_F(PerplexityTest, MaxTokensAndDocumentsLimitWhatIsScored) {
  const MarkedTokenizer tokenizer(config_.vocab_size, {});
  PerplexityOptions options;
  options.max_tokens = 10;
  EXPECT_EQ(perplexity(*model_, corpus(), tokenizer, options).tokens, 4 + 10 + 10 + 10 + 7 + 1);
  options.documents = 2;
  EXPECT_EQ(perplexity(*model_, corpus(), tokenizer, options).documents, 2);
}

TEST_F(PerplexityTest, PublishedIsThatOfEachTextBetweenItsMarksWhateverTheBatch) {
  for (const data::SpecialTokens& marks : std::vector<data::SpecialTokens>{{1, 2, {}, {}}, {1, {}, {}, {}}, {}}) {
    const MarkedTokenizer tokenizer(config_.vocab_size, marks);
    const auto [loss, tokens] = each_alone(marks);
    for (const int64_t batch : {1, 3, 100})
      for (const int64_t stretch : {9, 2048}) {
        const auto report = published_perplexity(*model_, corpus(), tokenizer, {batch, {stretch}});
        EXPECT_EQ(report.tokens, tokens);
        EXPECT_EQ(report.documents, marks.eos ? 8 : marks.bos ? 7 : 6);
        EXPECT_NEAR(report.loss, loss, 1e-6 * loss) << batch << " " << stretch;
        EXPECT_DOUBLE_EQ(report.perplexity, std::exp(report.loss));
      }
  }
}

TEST_F(PerplexityTest, PublishedAddsOnlyTheMarksThatTheDataLacks) {
  const MarkedTokenizer tokenizer(config_.vocab_size, {1, 2, {}, {}});
  const auto [loss, tokens] = each_alone({1, 2, {}, {}});
  for (const data::DocumentMarks there :
       std::vector<data::DocumentMarks>{{}, {true, false}, {false, true}, {true, true}}) {
    data::TokenFileWriter writer(folder_ / "marked", tokenizer, there);
    for (std::vector<int32_t> text : documents_) {
      if (there.bos) text.insert(text.begin(), 1);
      if (there.eos) text.push_back(2);
      writer.add_document(text);
    }
    writer.finish();
    const auto report = published_perplexity(*model_, data::TokenFile(folder_ / "marked"), tokenizer, {3, {64}});
    EXPECT_EQ(report.tokens, tokens);
    EXPECT_NEAR(report.loss, loss, 1e-6 * loss);
    EXPECT_EQ(report.marks.bos, 1);
    EXPECT_EQ(report.marks.eos, 2);
  }
}

TEST_F(PerplexityTest, PublishedLongInferenceForgetsOldStatistics) {
  const MarkedTokenizer tokenizer(config_.vocab_size, {1, 2, {}, {}});
  const auto published = published_perplexity(*model_, corpus(), tokenizer, {1, published_long_inference(*model_)});
  // The same from score(), whose long inference is compared with published numbers in the golden tests.
  double sum = 0;
  for (std::vector<int32_t> text : documents_) {
    text.insert(text.begin(), 1), text.push_back(2);
    const Tensor tokens = torch::tensor(std::vector<int64_t>(text.begin(), text.end())).unsqueeze(0);
    const int64_t steps = tokens.size(1) - 1;
    sum += score(*model_, tokens.narrow(1, 0, steps), tokens.narrow(1, 1, steps), published_long_inference(*model_))
               .sum(torch::kFloat64)
               .item<double>();
  }
  EXPECT_NEAR(published.loss, sum / static_cast<double>(published.tokens), 1e-9);
  EXPECT_GT(std::abs(published.loss - each_alone({1, 2, {}, {}}).first), 1e-6) << "the longest text has 25 chunks";
}

TEST_F(PerplexityTest, RefusesTokensThatTheTokenizerLacksAndCorporaWithoutText) {
  const MarkedTokenizer tokenizer(10, {});
  expect_contains(error_of([&] { perplexity(*model_, corpus(), tokenizer, {}); }), {"vocabulary of 10"});
  put_documents("empty", {{}, {4}}, config_.vocab_size);
  const data::TokenFile empty(folder_ / "empty");
  expect_contains(error_of([&] { perplexity(*model_, empty, tokenizer, {}); }), {"two tokens"});
  expect_contains(error_of([&] { published_perplexity(*model_, empty, tokenizer, {}); }), {"no text has a token"});
}

}  // namespace
}  // namespace megalodon
