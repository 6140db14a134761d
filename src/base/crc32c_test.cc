#include "base/crc32c.h"

#include <gtest/gtest.h>

#include <string>

namespace megalodon {
namespace {

TEST(Crc32c, PublishedVectors) {
  EXPECT_EQ(crc32c(""), 0U);
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
  EXPECT_EQ(crc32c(std::string(32, '\xFF')), 0x62A8AB43U);  // RFC 3720, B.4
}

}  // namespace
}  // namespace megalodon
