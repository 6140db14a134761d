#include "nn/state_space.h"

#include "base/check.h"

namespace megalodon::nn {
namespace {

Tensor wide(const Tensor& t) {
  return t.to(torch::kFloat64);
}

Tensor complex_of(const Tensor& t, bool real) {
  return real ? wide(t).to(torch::kComplexDouble) : torch::view_as_complex(wide(t).contiguous());
}

/// Feature h has row h mod S of the axis before the last.
Tensor for_features(const Tensor& rows, int64_t features) {
  const int64_t S = rows.size(-2);
  check(features % S == 0, "[state space] {} rows cannot be shared by {} features", S, features);
  std::vector<int64_t> repeats(static_cast<size_t>(rows.dim()), 1);
  repeats[static_cast<size_t>(rows.dim()) - 2] = features / S;
  return rows.repeat(repeats);
}

/// (exp(z) − 1)/z without loss of digits near 0, where a series takes over.
Tensor exp_minus_one_over(const Tensor& z) {
  const Tensor small = z.abs() < 1e-3, safe = torch::where(small, torch::ones_like(z), z);
  const Tensor series = 1 + z / 2 * (1 + z / 3 * (1 + z / 4 * (1 + z / 5)));
  return torch::where(small, series, (safe.exp() - 1) / safe);
}

}  // namespace

StateSpace state_space(const StateSpaceParameters& p, const StateSpaceOptions& options) {
  StateSpace space;
  if (options.dt_transform == "exp")
    space.dt = wide(p.inv_dt).exp();
  else if (options.dt_transform == "softplus")
    space.dt = torch::softplus(wide(p.inv_dt));
  else
    fail_usage("[state space] expected a dt_transform of exp or softplus, got \"{}\"", options.dt_transform);

  Tensor decay_SN;
  if (options.real_transform == "exp")
    decay_SN = wide(p.A_real).exp();
  else if (options.real_transform == "relu")
    decay_SN = torch::relu(wide(p.A_real)) + 1e-4;
  else
    fail_usage("[state space] expected a real_transform of exp or relu, got \"{}\"", options.real_transform);

  const bool real = !p.A_imag.defined();
  const int64_t H = p.inv_dt.size(0);
  const Tensor frequency_SN = real ? torch::zeros_like(decay_SN) : wide(p.A_imag);
  space.a_HN = for_features(torch::complex(-decay_SN, -frequency_SN), H);
  space.b_HN = for_features(complex_of(p.B, real).squeeze(0), H);
  space.c_CHN = complex_of(p.C, real);
  if (p.P.defined()) space.p_RHN = for_features(complex_of(p.P, real), H);
  return space;
}

DiagonalSystem discretize(const StateSpace& space, const std::string& discretization) {
  const Tensor z_HN = space.dt * space.a_HN;
  if (discretization == "zoh") return {z_HN.exp(), space.dt * space.b_HN * exp_minus_one_over(z_HN)};
  if (discretization == "bilinear") {
    const Tensor e_HN = 1 / (1 - z_HN / 2);
    return {(1 + z_HN / 2) * e_HN, space.dt * space.b_HN * e_HN};
  }
  fail_usage("[state space] expected a discretization of zoh or bilinear, got \"{}\"", discretization);
}

ops::NplrSystem nplr_system(const StateSpace& space) {
  return {space.dt * space.a_HN, space.dt * space.b_HN, space.dt.sqrt() * space.p_RHN};
}

}  // namespace megalodon::nn
