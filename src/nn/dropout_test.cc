#include "nn/dropout.h"

#include <gtest/gtest.h>

namespace megalodon::nn {
namespace {

TEST(TiedDropout, HasOneMaskForAllStepsOfARow) {
  for (const auto type : {torch::kFloat32, torch::kFloat64, torch::kBFloat16}) {
    const Tensor x_BLD = torch::ones({3, 9, 64}, type), y_BLD = drop(x_BLD, Dropout{0.5, true}, 1, 2, true);
    EXPECT_EQ(y_BLD.scalar_type(), type);
    EXPECT_TRUE((y_BLD.eq(0) | y_BLD.eq(2)).all().item<bool>());
    EXPECT_NEAR(y_BLD.to(torch::kFloat32).mean().item<double>(), 1, 0.25);
    EXPECT_TRUE(torch::equal(y_BLD, y_BLD.narrow(1, 0, 1).expand_as(y_BLD)));
    EXPECT_FALSE(torch::equal(y_BLD[0], y_BLD[1]));
    EXPECT_TRUE(torch::equal(y_BLD, drop(x_BLD, Dropout{0.5, true}, 1, 2, true)));
    EXPECT_FALSE(torch::equal(y_BLD, drop(x_BLD, Dropout{0.5, true}, 1, 3, true)));
    EXPECT_FALSE(torch::equal(y_BLD, drop(x_BLD, Dropout{0.5, true}, 2, 2, true)));
    const Tensor untied_BLD = drop(x_BLD, Dropout{0.5, false}, 1, 2, true);
    EXPECT_FALSE(torch::equal(untied_BLD, untied_BLD.narrow(1, 0, 1).expand_as(untied_BLD)));
    EXPECT_TRUE(torch::equal(drop(x_BLD, Dropout{0.5, true}, 1, 2, false), x_BLD));
    EXPECT_TRUE(torch::equal(drop(x_BLD, Dropout{0, true}, 1, 2, true), x_BLD));
  }
}

}  // namespace
}  // namespace megalodon::nn
