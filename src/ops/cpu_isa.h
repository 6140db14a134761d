// Which instructions kernels and matrix products may choose from.
#pragma once

namespace megalodon::ops {

/// Honours MEGALODON_CPU_ISA, to see what an older processor would compute, and how fast: "avx2" (no AVX-512),
/// "baseline" (the least that kernels and oneDNN are compiled for) or "native", the default. libtorch is left alone. To
/// be called before the first operator. Throws UsageError for anything else and for what this processor does not have.
void pin_cpu_isa();

}  // namespace megalodon::ops
