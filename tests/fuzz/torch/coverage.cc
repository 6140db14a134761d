// What GCC's -fsanitize-coverage=trace-pc calls at every edge, as counters that libFuzzer looks at after every run.
#include <cstddef>
#include <cstdint>

namespace {

constexpr size_t kCounters = size_t{1} << 16;  // few enough to be looked at after every run; edges may share one
[[gnu::section("__libfuzzer_extra_counters"), gnu::used]] uint8_t counters[kCounters];

}  // namespace

extern "C" void __sanitizer_cov_trace_pc() {
  const auto address = reinterpret_cast<uintptr_t>(__builtin_return_address(0));
  ++counters[address * 0x9E3779B97F4A7C15u >> 48];
}

// Of trace-cmp, whose comparisons of integers libFuzzer takes by itself; those of floating point tell it nothing.
extern "C" void __sanitizer_cov_trace_cmpf(float, float) {}
extern "C" void __sanitizer_cov_trace_cmpd(double, double) {}
