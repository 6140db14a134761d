#include "ops/bfloat16_product.h"

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::bfloat16_product_test {
namespace {

using testing::close;

// Products that libtorch leaves to oneDNN and such as it would add up in bfloat16, where 512 ones are 256.
TEST(Bfloat16Product, PartialSumsAreFloat32) {
  const auto ones = [](int64_t rows, int64_t columns) { return torch::ones({rows, columns}, torch::kBFloat16); };
  for (const int64_t rows : {1, 2, 100})
    for (const int64_t inner : {1, 512, 4096})
      for (const int64_t columns : {1, 8, 50}) {
        const Tensor expected = torch::full({rows, columns}, static_cast<double>(inner));
        SCOPED_TRACE(c10::str(rows, " x ", inner, " x ", columns));
        EXPECT_TRUE(torch::equal(bfloat16_product(ones(rows, inner), ones(inner, columns)), expected));
        EXPECT_TRUE(torch::equal(bfloat16_product(ones(inner, rows).t(), ones(inner, columns)), expected));
        EXPECT_TRUE(torch::equal(bfloat16_product(ones(rows, inner), ones(columns, inner).t()), expected));
      }
}

TEST(Bfloat16Product, EqualsFloat64UpToOneRounding) {
  torch::manual_seed(1);
  for (const auto& [rows, inner, columns] : std::vector<std::array<int64_t, 3>>{{3, 5, 7}, {70, 300, 90}, {0, 4, 4}}) {
    const Tensor a = torch::randn({rows, inner}).to(torch::kBFloat16);
    const Tensor b = torch::randn({columns, inner}).to(torch::kBFloat16).t();
    const Tensor got = bfloat16_product(a, b), expected = at::mm(a.to(torch::kFloat64), b.to(torch::kFloat64));
    EXPECT_EQ(got.scalar_type(), torch::kFloat32);
    EXPECT_TRUE(close(got, expected, 1.0 / 256));  // half a unit of bfloat16's last place
    const Tensor out = torch::empty({rows, columns});
    bfloat16_product_out(out, a, b);
    EXPECT_TRUE(torch::equal(out, got));
  }
}

TEST(Bfloat16Product, RefusesOtherTypes) {
  EXPECT_THROW(bfloat16_product(torch::ones({2, 2}), torch::ones({2, 2}, torch::kBFloat16)), Error);
}

}  // namespace
}  // namespace megalodon::ops::bfloat16_product_test
