#include "base/process.h"

#include <string>

#include "base/testing.h"

namespace megalodon {
namespace {

TEST(Process, ThePeakOutlastsMemoryThatIsGivenBackAndBeginsAnewAtAReset) {
  if (!kMeasuresMemory) GTEST_SKIP() << "the sanitizer keeps memory";
  constexpr int64_t kBytes = int64_t{256} << 20, kNear = int64_t{32} << 20;
  reset_peak_resident_bytes();
  const int64_t before = resident_bytes();
  EXPECT_NEAR(static_cast<double>(peak_resident_bytes()), static_cast<double>(before), kNear);
  { const std::string memory(kBytes, 'x'); }
  EXPECT_GT(peak_resident_bytes(), before + kBytes - kNear);
  EXPECT_LT(resident_bytes(), before + kNear);
  reset_peak_resident_bytes();
  EXPECT_LT(peak_resident_bytes(), before + kNear);
}

}  // namespace
}  // namespace megalodon
