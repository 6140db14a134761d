#include "train/validation.h"

#include "train/testing.h"

namespace megalodon {
namespace {

TEST(ValidEntries, NameAndPrefix) {
  using Entries = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(split_valid_entries({"corpora/gcide/valid", "books=corpora/pg19/valid", "a/b=c/test"}),
            (Entries{{"valid", "corpora/gcide/valid"}, {"books", "corpora/pg19/valid"}, {"test", "a/b=c/test"}}));
  for (const char* entry : {"", "=x", "name=", "corpora/", "two words", "a b=x"})
    expect_contains(error_of([&] { split_valid_entries({entry}); }), {"data.valid", "NAME=PREFIX"});
  expect_contains(error_of([&] { split_valid_entries({"a/valid", "b/valid"}); }), {"data.valid", "\"valid\""});
}

class Validation : public testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    model_ = tiny_run("run").model->build();
    model_->init_weights(3);
  }
  std::string prefix(const char* name) const { return (folder_ / name).string(); }

  const EvaluationOptions options_ = {.batch = 2, .length = 16};
  std::unique_ptr<Model> model_;
  data::ByteTokenizer bytes_;
};

TEST_F(Validation, EverySetHasItsOwnLoss) {
  const ValidationSets sets({prefix("valid"), "seen=" + prefix("train")}, model_->config(), bytes_, options_);
  std::vector<double> shares;
  const auto list = sets.evaluate(*model_, bytes_, {}, [&](double s) { shares.push_back(s); });
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 2U);
  EXPECT_EQ((*list)[0].name, "valid");
  EXPECT_EQ((*list)[1].name, "seen");
  EXPECT_NE((*list)[0].result.loss, (*list)[1].result.loss);
  const data::TokenFile corpus(folder_ / "train");
  EXPECT_EQ((*list)[1].result.loss, evaluate(*model_, corpus, bytes_, options_)->loss);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.back(), 1.0);
  int64_t polls = 0;
  EXPECT_FALSE(sets.evaluate(*model_, bytes_, [&] { return ++polls > 5; }, {})) << "stopped in the second set";
}

TEST_F(Validation, RefusesEqualNamesAndMissingFiles) {
  expect_contains(error_of([&] {
                    ValidationSets({prefix("valid"), "valid=" + prefix("train")}, model_->config(), bytes_, options_);
                  }),
                  {"data.valid", "\"valid\"", "NAME=PREFIX"});
  expect_contains(error_of([&] { ValidationSets({prefix("absent")}, model_->config(), bytes_, options_); }),
                  {"absent"});
  EXPECT_TRUE(ValidationSets({}, model_->config(), bytes_, options_).empty());
}

TEST_F(Validation, RefusesAtOnceWhatHasNothingToEvaluate) {
  const auto open = [&](const std::vector<std::vector<int32_t>>& documents, int64_t length, int64_t tokens) {
    put_documents("odd", documents, 256);
    ValidationSets({prefix("valid"), prefix("odd")}, model_->config(), bytes_,
                   {.batch = 2, .length = length, .tokens = tokens});
  };
  const std::vector<int32_t> text(10, 'x');
  expect_contains(error_of([&] { open({text, text}, 20, 0); }), {"odd", "20 tokens"});
  EXPECT_NO_THROW(open({text, text}, 19, 0));
  // Nothing but single tokens where the only sequence lies.
  std::vector<std::vector<int32_t>> singles(8, {'x'});
  singles.push_back(text);
  expect_contains(error_of([&] { open(singles, 8, 8); }), {"data.valid", "odd", "no token that follows another"});
  EXPECT_NO_THROW(open(singles, 8, 16));
}

TEST_F(Validation, AnotherTextHasAnotherIdentity) {
  const auto identity = [&](const std::string& entry) {
    return ValidationSets({entry}, model_->config(), bytes_, options_).identity();
  };
  const auto valid = identity(prefix("valid"));
  EXPECT_EQ(valid["1"]["name"], "valid");
  EXPECT_EQ(identity("other=" + prefix("valid"))["1"]["fingerprint"], valid["1"]["fingerprint"]);
  EXPECT_NE(identity(prefix("train"))["1"]["fingerprint"], valid["1"]["fingerprint"]);
}

TEST_F(Validation, IdsThatTheModelLacksAreFoundAtOnceAndTrustIsStated) {
  put_documents("large", {std::vector<int32_t>(40, 300)}, 512);
  const auto open = [&](const std::vector<std::string>& list) {
    return ValidationSets(list, model_->config(), bytes_, options_).describe();
  };
  expect_contains(error_of([&] {
                    open({prefix("valid"), prefix("large")});
                  }),
                  {"/large'", "token 300", "vocabulary is 256"});
  expect_contains(open({prefix("valid")}).at(0), {"tokenizer unknown, taken on trust; largest id 109"});
}

}  // namespace
}  // namespace megalodon
