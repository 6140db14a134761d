// CPU kernels of rms_norm and layer_norm; row_norm_kernel.h says how the work is split.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/row_norm/row_norm_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/parallel.h"
#include "hwy/highway.h"
#include "ops/row_norm/affine.h"
#include "ops/row_norm/row_norm_kernel.h"
#include "ops/row_norm/run_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {

struct RowStatistics {
  SplitMean mean;
  float rstd;
};

HWY_INLINE RowStatistics row_statistics(const RowNormArgs& a, const float* x) {
  const SplitMean mean = a.centered ? split(run_mean(x, a.size)) : SplitMean{0, 0};
  return {mean, static_cast<float>(1.0 / std::sqrt(run_variance(x, mean, a.size) + a.eps))};
}

template <class Y>
void rows_of_type(const RowNormArgs& a, const Affine& affine, Y* y, int64_t begin, int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const float* x = static_cast<const float*>(a.x) + row * a.size;
    const RowStatistics s = row_statistics(a, x);
    normalize_run(x, s.mean, s.rstd, affine.scale.data(), affine.shift.data(), y + row * a.size, a.size);
  }
}

template <class Y>
void gradient_rows_of_type(const RowNormArgs& a, const Affine& affine, const RowNormGradients& out, AffineTotals totals,
                           int64_t begin, int64_t end) {
  const float* scale = affine.scale.data();
  AffineGradient parameters(totals, a.size);
  for (int64_t row = begin; row < end; ++row) {
    const float* x = static_cast<const float*>(a.x) + row * a.size;
    const Y* dy = static_cast<const Y*>(out.dy) + row * a.size;
    const RowStatistics s = row_statistics(a, x);
    const GradientSums sums = gradient_sums(x, s.mean, dy, scale, a.size);
    const double size = static_cast<double>(a.size), rstd = s.rstd;
    const double constant = a.centered ? -rstd * sums.g / size : 0.0;
    const double slope = -rstd * rstd * rstd * sums.gc / size;
    const RunGradient run{s.rstd, static_cast<float>(constant), static_cast<float>(slope)};
    float* dx = static_cast<float*>(out.dx) + row * a.size;
    if (parameters.wanted()) {
      all_gradients(x, s.mean, dy, scale, run, dx, parameters.dscale(), parameters.dshift(), a.size);
      parameters.row_done();
    } else {
      input_gradient(x, s.mean, dy, scale, run, dx, a.size);
    }
  }
  parameters.flush();
}

void row_norm_rows(const RowNormArgs& a, const Affine& affine, void* y, int64_t begin, int64_t end) {
  if (a.y_type == NumberType::kFloat32)
    rows_of_type(a, affine, static_cast<float*>(y), begin, end);
  else
    rows_of_type(a, affine, static_cast<Bfloat16*>(y), begin, end);
}

void row_norm_gradient_rows(const RowNormArgs& a, const Affine& affine, const RowNormGradients& out,
                            AffineTotals totals, int64_t begin, int64_t end) {
  if (a.y_type == NumberType::kFloat32)
    gradient_rows_of_type<float>(a, affine, out, totals, begin, end);
  else
    gradient_rows_of_type<Bfloat16>(a, affine, out, totals, begin, end);
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(row_norm_rows);
HWY_EXPORT(row_norm_gradient_rows);

// At least 16 Ki elements a block so that a task outweighs its scheduling; at most 32 blocks so that the partial sums
// of the parameters' gradients, in float64 and added up by one thread, stay small beside x.
int64_t rows_per_block(const RowNormArgs& a) {
  return std::max((int64_t{1} << 14) / std::max<int64_t>(a.size, 1) + 1, (a.rows + 31) / 32);
}

/// Calls task(block, first row, end) for every block.
template <class Task>
void for_each_block(const RowNormArgs& a, const Task& task) {
  const int64_t step = rows_per_block(a), blocks = (a.rows + step - 1) / step;
  const auto run = [&](int64_t block) { task(block, block * step, std::min(a.rows, (block + 1) * step)); };
  if (a.rows * a.size < kSerialElements) {
    for (int64_t block = 0; block < blocks; ++block) run(block);
  } else {
    parallel_for(blocks, run);
  }
}

}  // namespace

void row_norm_forward_cpu(const RowNormArgs& args, const RowNormResult& result) {
  const Affine affine(args.weight, args.bias, args.size);
  const auto rows = HWY_DYNAMIC_DISPATCH(row_norm_rows);
  for_each_block(args, [&](int64_t, int64_t begin, int64_t end) { rows(args, affine, result.y, begin, end); });
}

void row_norm_backward_cpu(const RowNormArgs& args, const RowNormGradients& gradients) {
  const Affine affine(args.weight, args.bias, args.size);
  const auto rows = HWY_DYNAMIC_DISPATCH(row_norm_gradient_rows);
  const bool wanted = gradients.dweight != nullptr || gradients.dbias != nullptr;
  const int64_t blocks = (args.rows + rows_per_block(args) - 1) / rows_per_block(args);
  AffinePartials partials(wanted ? blocks : 0, args.size);
  for_each_block(args, [&](int64_t block, int64_t begin, int64_t end) {
    const AffineTotals totals = wanted ? AffineTotals{partials.dscale(block), partials.dshift(block)} : AffineTotals{};
    rows(args, affine, gradients, totals, begin, end);
  });
  partials.sum(gradients.dweight, gradients.dbias);
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
