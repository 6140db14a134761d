#include "report/run_record.h"

#include "base/testing.h"

namespace megalodon::report {
namespace {

class Record : public FolderTest {
 protected:
  RunRecord read(const std::string& text) const { return read_run_record(put("metrics.jsonl", text), "valid"); }
};

constexpr const char* kRun =
    R"({"step":1,"loss":5.5,"grad_norm":1,"tokens":100,"tokens_per_s":50,"step_s":2.0,"peak_rss_mb":300.5}
{"step":2,"loss":null,"grad_norm":null,"tokens":200,"tokens_per_s":100,"step_s":1.0,"peak_rss_mb":310,"skipped":"loss is nan"}
{"step":2,"eval_loss/valid":5.25,"perplexity/valid":190,"bits_per_byte/valid":7.5,"eval_loss/test":5,"bits_per_byte/test":7,"eval_s":9}
{"step":2,"rolled_back_from":3,"reason":"no reason","rollbacks":1}
{"step":3,"loss":5.0,"grad_norm":1,"tokens":300,"tokens_per_s":200,"step_s":0.5,"peak_rss_mb":305}
{"step":3,"eval_loss/valid":4.75,"bits_per_byte/valid":6.5,"eval_loss/test":null,"bits_per_byte/test":null,"eval_s":9}
)";

TEST_F(Record, SecondsAreThoseOfTrainingAndEvaluationsBelongToTheStepBeforeThem) {
  const RunRecord run = read(kRun);
  EXPECT_EQ(run.steps, 3);
  EXPECT_EQ(run.tokens, 300);
  EXPECT_DOUBLE_EQ(run.seconds, 3.5);
  EXPECT_EQ(run.tokens_per_s, 100);
  EXPECT_EQ(run.peak_mib, 310);
  EXPECT_EQ(run.peak_gpu_mib, 0);

  ASSERT_EQ(run.training.size(), 2U) << "the second step's loss is not finite";
  EXPECT_EQ(run.training[1].step, 3);
  EXPECT_DOUBLE_EQ(run.training[1].seconds, 3.5);

  ASSERT_EQ(run.held_out.size(), 2U);
  EXPECT_EQ(run.held_out[0].name, "valid");
  EXPECT_FALSE(run.diverged());
  EXPECT_EQ(run.held_out[1].list.size(), 1U);
  EXPECT_TRUE(run.held_out[1].diverged);
  const auto& headline = run.headline();
  ASSERT_EQ(headline.size(), 2U);
  EXPECT_EQ(headline[0].step, 2);
  EXPECT_EQ(headline[0].tokens, 200);
  EXPECT_DOUBLE_EQ(headline[0].seconds, 3);
  EXPECT_EQ(headline[1].loss, 4.75);
  EXPECT_EQ(headline[1].bits_per_byte, 6.5);
}

constexpr const char* kStep = R"({"step":1,"loss":5.5,"grad_norm":1,"tokens":100,"step_s":2.0})";

TEST_F(Record, TheHeadlineSetStaysFirstWhereItsLossIsNoNumber) {
  const RunRecord run = read(fmt::format("{}\n{}\n", kStep, R"({"step":1,"eval_loss/valid":null,"eval_loss/test":5})"));
  ASSERT_EQ(run.held_out.size(), 2U);
  EXPECT_EQ(run.held_out[0].name, "valid");
  EXPECT_TRUE(run.headline().empty());
  EXPECT_TRUE(run.diverged());
  EXPECT_EQ(run.held_out[1].list.size(), 1U);
}

TEST_F(Record, BitsPerByteThatAreNotThereAreUnknown) {
  const auto headline = read(fmt::format("{}\n{}\n", kStep, R"({"step":1,"eval_loss/valid":5})")).headline();
  EXPECT_FALSE(headline.at(0).bits_per_byte);
  EXPECT_TRUE(bits_per_byte(headline, Axis::kTokens).empty());
  EXPECT_EQ(losses(headline, Axis::kTokens).size(), 1U);
}

TEST_F(Record, CurvesHaveTokensOrSeconds) {
  const auto headline = read(kRun).headline();
  EXPECT_EQ(losses(headline, Axis::kTokens)[1].x, 300);
  EXPECT_EQ(losses(headline, Axis::kSeconds)[1].x, 3.5);
  EXPECT_EQ(losses(headline, Axis::kSeconds)[1].y, 4.75);
  EXPECT_EQ(bits_per_byte(headline, Axis::kTokens)[0].y, 7.5);
}

TEST_F(Record, NoFileAndALineThatIsBeingWrittenAreNothing) {
  const RunRecord absent = read_run_record(folder_ / "absent", "valid");
  EXPECT_EQ(absent.steps, 0);
  EXPECT_TRUE(absent.headline().empty());
  EXPECT_FALSE(absent.diverged());
  EXPECT_EQ(read(std::string(kRun) + R"({"step":4,"loss":4)").steps, 3);
}

TEST_F(Record, DamageIsNamedByItsLine) {
  expect_contains(error_of([&] { read("{\"step\":1\n{}\n"); }), {"metrics.jsonl:1", "not JSON"});
  expect_contains(error_of([&] { read(std::string(kRun) + "[]\n"); }), {"metrics.jsonl:7", "expected an object"});
  expect_contains(error_of([&] { read("{\"grad_norm\":1,\"step\":-4}\n"); }), {"metrics.jsonl:1", "step"});
}

}  // namespace
}  // namespace megalodon::report
