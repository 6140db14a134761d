// The specification of timestep_norm as tensor operations: prefix sums of (n, Σm, Σs) in float64, everything of the
// size of x in x's own type.
#include "ops/timestep_norm/timestep_norm.h"

namespace megalodon::ops::ref {
namespace {

/// Inclusive sums over time that begin afresh where a document starts.
Tensor sum_since_start(const Tensor& value_BL_, const Tensor& starts_BL) {
  const Tensor total = value_BL_.cumsum(1);
  if (!starts_BL.defined()) return total;
  const Tensor steps_L =
      torch::arange(value_BL_.size(1), value_BL_.options().dtype(torch::kInt64).requires_grad(false));
  Tensor start = std::get<0>(torch::where(starts_BL, steps_L, torch::zeros_like(steps_L)).cummax(1));
  while (start.dim() < total.dim()) start = start.unsqueeze(-1);
  return total - (total - value_BL_).gather(1, start.expand_as(total));
}

Tensor last(const Tensor& value_BL_) {
  return value_BL_.select(1, value_BL_.size(1) - 1);
}

}  // namespace

TimestepNormOut timestep_norm(const Tensor& x_BLD, const Tensor& weight_D, const Tensor& bias_D,
                              const TimestepNormOptions& options) {
  const int64_t B = x_BLD.size(0), L = x_BLD.size(1), D = x_BLD.size(2), G = options.groups;
  const auto dtype = x_BLD.scalar_type();
  const auto plain = x_BLD.options().requires_grad(false);
  const Tensor valid_BL = options.padding_mask_BL.defined() ? options.padding_mask_BL.logical_not()
                                                            : torch::ones({B, L}, plain.dtype(torch::kBool));
  // Steps that the state from before this stretch still reaches.
  const Tensor continued_BL =
      options.starts_BL.defined() ? options.starts_BL.cumsum(1).eq(0) : torch::ones({B, L}, plain.dtype(torch::kBool));
  const bool fresh = !options.state.defined();
  const Tensor count0_B = fresh ? torch::zeros({B}, plain.dtype(torch::kInt64)) : options.state.count_B;
  const Tensor mean0_BG =
      fresh ? torch::zeros({B, G}, plain.dtype(torch::kFloat64)) : options.state.mean_BG.to(torch::kFloat64);
  const Tensor var0_BG =
      fresh ? torch::ones({B, G}, plain.dtype(torch::kFloat64)) : options.state.var_BG.to(torch::kFloat64);
  const auto if_known = [&](const Tensor& t_BG) {  // with count 0 the state may hold anything
    return torch::where(count0_B.unsqueeze(1) > 0, t_BG, torch::zeros_like(t_BG));
  };

  // Sums are taken about a constant near the data, or var = Σs/n − mean² would cancel.
  const Tensor x_BLGK = x_BLD.reshape({B, L, G, D / G});
  const Tensor first_BG = torch::where(valid_BL.slice(1, 0, 1), x_BLGK.select(1, 0).mean(-1), torch::zeros({}, plain));
  const Tensor pivot_BG = torch::where(count0_B.unsqueeze(1) > 0, mean0_BG.to(dtype), first_BG).detach();
  const Tensor c_BLGK =
      torch::where(valid_BL.view({B, L, 1, 1}), x_BLGK - pivot_BG.view({B, 1, G, 1}), torch::zeros({}, plain));
  const Tensor pivot_B1G = pivot_BG.to(torch::kFloat64).unsqueeze(1);

  const Tensor n_BL =
      sum_since_start(valid_BL.to(torch::kInt64), options.starts_BL) + continued_BL * count0_B.unsqueeze(1);
  const Tensor divisor_BL1 = n_BL.clamp_min(1).to(torch::kFloat64).unsqueeze(2);
  const Tensor n0_BL1 = (continued_BL * count0_B.unsqueeze(1)).to(torch::kFloat64).unsqueeze(2);
  const Tensor offset0_B1G = if_known(mean0_BG).unsqueeze(1) - pivot_B1G,
               known_var0_B1G = if_known(var0_BG).unsqueeze(1);
  const Tensor m_BLG = c_BLGK.mean(-1).to(torch::kFloat64), s_BLG = c_BLGK.square().mean(-1).to(torch::kFloat64);
  const Tensor mean_BLG = (n0_BL1 * offset0_B1G + sum_since_start(m_BLG, options.starts_BL)) / divisor_BL1;
  const Tensor square_BLG =
      (n0_BL1 * (known_var0_B1G + offset0_B1G.square()) + sum_since_start(s_BLG, options.starts_BL)) / divisor_BL1;
  const Tensor var_BLG = square_BLG - mean_BLG.square();

  const Tensor rstd_BLG1 = (var_BLG + options.eps).rsqrt().to(dtype).unsqueeze(3);
  Tensor y_BLD = ((c_BLGK - mean_BLG.to(dtype).unsqueeze(3)) * rstd_BLG1).reshape({B, L, D});
  if (weight_D.defined()) y_BLD = y_BLD * (1 + weight_D.to(dtype));
  if (bias_D.defined()) y_BLD = y_BLD + bias_D.to(dtype);
  y_BLD = torch::where(valid_BL.unsqueeze(2), y_BLD, torch::zeros({}, plain));

  // Nothing valid yet: the state passes through, or is a fresh one if a document started.
  const Tensor counted_B1 = last(n_BL).unsqueeze(1) > 0, continued_B1 = last(continued_BL).unsqueeze(1);
  const Tensor zero = torch::zeros({}, plain.dtype(torch::kFloat64));
  const Tensor mean_BG =
      torch::where(counted_B1, last(mean_BLG + pivot_B1G), torch::where(continued_B1, mean0_BG, zero));
  const Tensor var_BG = torch::where(counted_B1, last(var_BLG), torch::where(continued_B1, var0_BG, zero + 1));
  return {y_BLD, {last(n_BL), mean_BG, var_BG}};
}

}  // namespace megalodon::ops::ref
