#include "base/human.h"

#include <gtest/gtest.h>

namespace megalodon {
namespace {

TEST(Human, CommasStandBetweenThousands) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(-999), "-999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(-1234567), "-1,234,567");
}

TEST(Human, BytesHaveTheLargestUnitBelowThem) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes(3.0 * (1 << 30)), "3.0 GiB");
  EXPECT_EQ(human_bytes(5e15), "4547.5 TiB");
}

}  // namespace
}  // namespace megalodon
