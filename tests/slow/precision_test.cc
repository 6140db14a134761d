// Two thousand steps in bfloat16 end where they end in float32.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "small_run.h"

namespace megalodon {
namespace {

class Precision : public testing::SmallRunTest {};

TEST_F(Precision, Bfloat16LosesNothing) {
  constexpr int64_t kSteps = 2000, kLast = 100;
  double training[2], evaluation[2] = {};
  for (const bool low : {false, true}) {
    RunConfig run = small_run(low ? "bfloat16" : "float32");
    run.train.precision = low ? "bfloat16" : "float32";
    run.train.steps = kSteps;
    const auto losses = losses_of(run, &evaluation[low]);
    ASSERT_EQ(static_cast<int64_t>(losses.size()), kSteps);
    for (const double loss : losses) ASSERT_TRUE(std::isfinite(loss));
    training[low] = std::accumulate(losses.end() - kLast, losses.end(), 0.0) / kLast;
    EXPECT_LT(training[low], 0.5 * losses.front());
    EXPECT_LT(evaluation[low], 0.5 * losses.front());
    ASSERT_GT(evaluation[low], 0);
    RecordProperty(low ? "bfloat16" : "float32", std::to_string(evaluation[low]));
  }
  EXPECT_NEAR(training[1], training[0], 0.02 * training[0]);
  EXPECT_NEAR(evaluation[1], evaluation[0], 0.02 * evaluation[0]);
}

}  // namespace
}  // namespace megalodon
