#include "ops/cpu_isa.h"

#include <hwy/targets.h>

#include <cstdlib>
#include <string_view>
#if MEGALODON_ONEDNN
#include <dnnl.hpp>
#endif

#include "base/check.h"

namespace megalodon::ops {

void pin_cpu_isa() {
  const char* variable = std::getenv("MEGALODON_CPU_ISA");
  const std::string_view isa = variable == nullptr ? "native" : variable;
  if (isa == "native") return;
#if HWY_ARCH_X86
  const bool avx2 = isa == "avx2";
  if (!avx2 && isa != "baseline") fail_usage("[MEGALODON_CPU_ISA] expected native, avx2 or baseline, got \"{}\"", isa);
  if (avx2 && (hwy::SupportedTargets() & HWY_AVX2) == 0) fail_usage("[MEGALODON_CPU_ISA] this processor has no AVX2");
  hwy::DisableTargets(avx2 ? HWY_AVX3 | HWY_AVX3_DL : ~static_cast<int64_t>(HWY_STATIC_TARGET));
#if MEGALODON_ONEDNN
  const auto status = dnnl::set_max_cpu_isa(avx2 ? dnnl::cpu_isa::avx2 : dnnl::cpu_isa::sse41);
  check(status == dnnl::status::success, "[MEGALODON_CPU_ISA] oneDNN is in use already");
#endif
#else
  if (isa != "baseline") fail_usage("[MEGALODON_CPU_ISA] expected native or baseline, got \"{}\"", isa);
  hwy::DisableTargets(~static_cast<int64_t>(HWY_STATIC_TARGET));
#endif
}

}  // namespace megalodon::ops
