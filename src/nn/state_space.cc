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

Tensor low_rank_kernel(const ops::NplrSystem& system, const Tensor& c_CHN, int64_t attuned_length, int64_t length,
                       torch::ScalarType type) {
  const ops::AttunedRow row = attuned_length == 0 ? ops::AttunedRow{ops::nplr_attune(system, c_CHN, length), length}
                                                  : ops::nplr_grow(system, {c_CHN, attuned_length}, length);
  // c̃ = c (I − Ā^length) loses digits where the length is short beside the step sizes, and a short kernel is cheap.
  constexpr int64_t kShort = 16;
  const auto complex = row.length <= kShort ? torch::kComplexDouble : c10::toComplexType(type);
  const ops::NplrSystem narrow = {system.a_HN.to(complex), system.b_HN.to(complex), system.p_RHN.to(complex)};
  return ops::nplr_kernel(narrow, row.c_CHN.to(complex), row.length).narrow(2, 0, length).to(type);
}

}  // namespace

StateSpace state_space(const StateSpaceParameters& p, const StateSpaceTransforms& transforms) {
  StateSpace space;
  if (transforms.dt_transform == "exp")
    space.dt = wide(p.inv_dt).exp();
  else if (transforms.dt_transform == "softplus")
    space.dt = torch::softplus(wide(p.inv_dt));
  else
    fail_usage("[state space] expected a dt_transform of exp or softplus, got \"{}\"", transforms.dt_transform);

  Tensor decay_SN;
  if (transforms.real_transform == "exp")
    decay_SN = wide(p.A_real).exp();
  else if (transforms.real_transform == "relu")
    decay_SN = torch::relu(wide(p.A_real)) + 1e-4;
  else
    fail_usage("[state space] expected a real_transform of exp or relu, got \"{}\"", transforms.real_transform);

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

Tensor convolution_kernel(const StateSpace& space, const StateSpaceUse& use, int64_t length, torch::ScalarType type) {
  const int64_t C = space.c_CHN.size(0), H = space.c_CHN.size(1);
  if (!space.p_RHN.defined()) {  // the response to an impulse
    Tensor impulse_BLH = torch::zeros({1, length, H}, torch::TensorOptions(type).device(space.dt.device()));
    impulse_BLH.select(1, 0).fill_(1);
    const Tensor no_skip = torch::zeros({C, H}, impulse_BLH.options());
    const Tensor y_BLE = run(recurrence(space, use, type), impulse_BLH, no_skip).y_BLD;
    return y_BLE.view({length, C, H}).permute({1, 2, 0});
  }
  return low_rank_kernel(nplr_system(space), space.c_CHN, use.attuned_length, length, type);
}

Tensor response(const StateSpace& space, const StateSpaceUse& use, const Tensor& states_BHN, int64_t length,
                torch::ScalarType type) {
  const int64_t B = states_BHN.size(0), C = space.c_CHN.size(0), H = space.c_CHN.size(1);
  const ops::NplrSystem system = nplr_system(space);
  // A kernel with Ā x in place of B̄: that is (I − M/2)⁻¹ b of b = (I + M/2) x. Every row has its own.
  const Tensor x_BHN = states_BHN.to(torch::kComplexDouble);
  const Tensor inner_RBH1 = 2 * torch::real(system.p_RHN.conj().unsqueeze(1) * x_BHN).sum(-1, true);
  const Tensor mx_BHN = system.a_HN * x_BHN - (system.p_RHN.unsqueeze(1) * inner_RBH1).sum(0);
  const ops::NplrSystem of_rows = {system.a_HN.repeat({B, 1}), (x_BHN + mx_BHN / 2).flatten(0, 1),
                                   system.p_RHN.repeat({1, B, 1})};
  const Tensor kernel = low_rank_kernel(of_rows, space.c_CHN.repeat({1, B, 1}), use.attuned_length, length, type);
  return kernel.view({C, B, H, length}).permute({1, 3, 0, 2}).flatten(2);
}

StateSpaceRecurrence recurrence(const StateSpace& space, const StateSpaceUse& use, torch::ScalarType type) {
  const auto complex = c10::toComplexType(type);
  StateSpaceRecurrence result;
  Tensor c_CHN = space.c_CHN;
  if (space.p_RHN.defined()) {
    const ops::NplrSystem system = nplr_system(space);
    const ops::NplrStep step = ops::nplr_step(system);
    result.step = {step.q_DN.to(complex), step.beta_DN.to(complex), step.f_RDN.to(complex), step.w_RDN.to(complex),
                   step.phi_RD.to(type)};
    if (use.attuned_length > 0) c_CHN = ops::nplr_unattune(system, c_CHN, use.attuned_length);
  } else {
    const DiagonalSystem system = discretize(space, use.discretization);
    result.q_HN = system.q_HN.to(complex);
    c_CHN = 2 * c_CHN * system.b_HN;
  }
  result.c_HN = c_CHN.to(complex).unbind();
  return result;
}

ops::RecurrenceOut run(const StateSpaceRecurrence& recurrence, const Tensor& u_BLH, const Tensor& skip_CH,
                       const ops::RecurrenceOptions& options) {
  std::vector<Tensor> channels;
  ops::RecurrenceOut out;
  for (size_t i = 0; i < recurrence.c_HN.size(); ++i) {
    const Tensor skip_H = skip_CH.select(0, static_cast<int64_t>(i));
    out = recurrence.q_HN.defined()
              ? ops::linear_recurrence(u_BLH, recurrence.q_HN, recurrence.c_HN[i], skip_H, options)
              : ops::nplr_recurrence(u_BLH, recurrence.step, recurrence.c_HN[i], skip_H, options);
    channels.push_back(out.y_BLD);
  }
  if (channels.size() > 1) out.y_BLD = torch::cat(channels, 2);
  return out;
}

}  // namespace megalodon::nn
