#include "train/validation.h"

#include "train/testing.h"

namespace megalodon {
namespace {


TEST(ValidEntry, NameAndPrefix) {
  using Split = std::pair<std::string, std::string>;
  EXPECT_EQ(split_valid_entry("corpora/gcide/valid"), Split("valid", "corpora/gcide/valid"));
  EXPECT_EQ(split_valid_entry("books=corpora/pg19/valid"), Split("books", "corpora/pg19/valid"));
  EXPECT_EQ(split_valid_entry("a/b=c/valid"), Split("valid", "a/b=c/valid"));
  for (const char* entry : {"", "=x", "name=", "corpora/", "two words", "a b=x"})
    expect_contains(error_of([&] { split_valid_entry(entry); }), {"data.valid", "NAME=PREFIX"});
}

class Validation : public testing::TrainingTest {
 protected:
  void SetUp() override {
    TrainingTest::SetUp();
    model_ = tiny_run("run").model->build();
    model_->init_weights(3);
  }
  std::string prefix(const char* name) const { return (folder_ / name).string(); }

  std::unique_ptr<Model> model_;
  data::ByteTokenizer bytes_;
};

TEST_F(Validation, EverySetHasItsOwnLoss) {
  const ValidationSets sets({prefix("valid"), "seen=" + prefix("train")}, bytes_);
  std::vector<double> shares;
  const auto list = sets.evaluate(*model_, bytes_, {.batch = 2, .length = 16}, [&](double s) { shares.push_back(s); });
  ASSERT_TRUE(list);
  ASSERT_EQ(list->size(), 2U);
  EXPECT_EQ((*list)[0].name, "valid");
  EXPECT_EQ((*list)[1].name, "seen");
  EXPECT_NE((*list)[0].result.loss, (*list)[1].result.loss);
  const data::TokenFile corpus(folder_ / "train");
  EXPECT_EQ((*list)[1].result.loss, evaluate(*model_, corpus, bytes_, {.batch = 2, .length = 16})->loss);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_EQ(shares.back(), 1.0);
  int64_t polls = 0;
  EXPECT_FALSE(sets.evaluate(*model_, bytes_, {.batch = 2, .length = 16, .stop = [&] { return ++polls > 5; }}, {}))
      << "stopped in the second set";
}

TEST_F(Validation, RefusesEqualNamesAndMissingFiles) {
  expect_contains(error_of([&] {
                    ValidationSets({prefix("valid"), "valid=" + prefix("train")}, bytes_);
                  }),
                  {"data.valid", "\"valid\"", "NAME=PREFIX"});
  expect_contains(error_of([&] { ValidationSets({prefix("absent")}, bytes_); }), {"absent"});
  EXPECT_TRUE(ValidationSets({}, bytes_).empty());
}

}  // namespace
}  // namespace megalodon
