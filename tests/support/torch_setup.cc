// Seeds torch's default generator before every test: libtorch draws that seed at random, so a test that sets none would
// differ from run to run. --gtest_random_seed=N (1..99999) draws other numbers. Also honours MEGALODON_CPU_ISA.
#include <gtest/gtest.h>

#include "base/compat.h"
#include "ops/cpu_isa.h"

namespace megalodon::testing {
namespace {

class Seed : public ::testing::EmptyTestEventListener {
  void OnTestStart(const ::testing::TestInfo&) override { torch::manual_seed(GTEST_FLAG_GET(random_seed)); }
};

[[maybe_unused]] const bool listening = [] {
  ops::pin_cpu_isa();
  ::testing::UnitTest::GetInstance()->listeners().Append(new Seed);  // owned by the list
  return true;
}();

}  // namespace
}  // namespace megalodon::testing
