// The kernel: its generating function, the sums of which run on a kernel of their own on the CPU in float32, elsewhere
// as tensor operations.
//
// With w = exp(−iθ), θ = 2π m / length, the generating function is (the paper's appendix C.3)
//
//   K̂(θ) = 2/(1 + w) · [ r_cb − r_cp (I + r_pp)⁻¹ r_pb ](z),   z = 2 (1 − w)/(1 + w),   r_vu(z) = Σ v u / (z − a)
//
// over all 2N states. z has a pole at w = −1, and pairs of conjugates nearly cancel for small a. So both are taken out:
// z = 2i tan(θ/2), and with ρ_vu = r_vu / cos(θ/2)
//
//   K̂ = exp(iθ/2) [ ρ_cb − cos(θ/2) ρ_cp (I + cos(θ/2) ρ_pp)⁻¹ ρ_pb ]
//   ρ_vu = Σ_n ( 4 i sin(θ/2) Re(vu) − 2 cos(θ/2) Re(vu conj(a)) ) / d_n      of one of each pair
//   d_n = (−cos(θ/2) Re a + i (2 sin(θ/2) − cos(θ/2) Im a)) (−cos(θ/2) Re a + i (2 sin(θ/2) + cos(θ/2) Im a))
//
// which is finite everywhere. Everything but 1/d is a product of real matrices.
#include "ops/nplr/nplr.h"

#include <fmt/ranges.h>

#include <cmath>

#include "base/check.h"
#include "ops/nplr/nplr_kernel.h"
#include "ops/registration.h"
#include "ops/text_of.h"

namespace megalodon::ops {
namespace {

void check_system(const NplrSystem& system, const Tensor& c_CHN, int64_t length) {
  const Tensor &a = system.a_HN, &b = system.b_HN, &p = system.p_RHN;
  check(a.defined() && a.dim() == 2 && a.is_complex(), "[nplr] a must be complex [H,N], got {}", text_of(a));
  const auto expect = [&](const Tensor& t, const char* name, const char* letters, bool fits) {
    check(t.defined() && fits && t.scalar_type() == a.scalar_type(),
          "[nplr] {} must be {} {} with [H,N] = [{},{}], got {}", name, toString(a.scalar_type()), letters, a.size(0),
          a.size(1), text_of(t));
  };
  const auto stacked = [&](const Tensor& t) {
    return t.defined() && t.dim() == 3 && t.size(0) > 0 && t.sizes().slice(1) == a.sizes();
  };
  expect(b, "b", "[H,N]", b.defined() && b.sizes() == a.sizes());
  expect(p, "p", "[R,H,N]", stacked(p));
  expect(c_CHN, "c", "[C,H,N]", stacked(c_CHN));
  check(length > 0, "[nplr] length must be positive, got {}", length);
}

/// cos(θ/2) and sin(θ/2) of the first half of the roots of unity, [M]; the others are their conjugates.
struct Nodes {
  Tensor cos_M, sin_M;
};

Nodes nodes_of(int64_t length, const torch::TensorOptions& real) {
  const Tensor half_M =
      torch::arange(length / 2 + 1, real.dtype(torch::kFloat64)) * (M_PI / static_cast<double>(length));
  return {half_M.cos().to(real.dtype()), half_M.sin().to(real.dtype())};
}

/// What the sums over states are made of: a, and of the products v u, which lie side by side, Re(vu) and Re(vu
/// conj(a)).
struct Sums {
  Tensor re_HN, im_HN;
  Tensor x_HNK, y_HNK;
};

/// ρ of the products, real and imaginary parts one after the other [2,H,K,M].
Tensor sums_at_once(const Sums& of, const Nodes& nodes) {
  const Tensor re_HN1 = of.re_HN.unsqueeze(2), im_HN1 = of.im_HN.unsqueeze(2), sin2_M = 2 * nodes.sin_M;
  const Tensor low_HNM = sin2_M - nodes.cos_M * im_HN1, high_HNM = sin2_M + nodes.cos_M * im_HN1;
  const Tensor decay_HNM = nodes.cos_M * re_HN1, square_HNM = decay_HNM.square();
  const Tensor norm_HNM = (square_HNM + low_HNM.square()) * (square_HNM + high_HNM.square());
  // 1/d = conj(d)/|d|².
  const Tensor inverse_re_HNM = (square_HNM - low_HNM * high_HNM) / norm_HNM;
  const Tensor inverse_im_HNM = 2 * sin2_M * decay_HNM / norm_HNM;
  const auto sum = [](const Tensor& pairs_HNK, const Tensor& inverse_HNM) {
    return torch::matmul(pairs_HNK.transpose(1, 2), inverse_HNM);
  };
  return 2 * torch::stack({-(sin2_M * sum(of.x_HNK, inverse_im_HNM) + nodes.cos_M * sum(of.y_HNK, inverse_re_HNM)),
                           sin2_M * sum(of.x_HNK, inverse_re_HNM) - nodes.cos_M * sum(of.y_HNK, inverse_im_HNM)});
}

CauchyInputs kernel_inputs_of(const Sums& of, const Tensor& cos_M, const Tensor& two_sin_M) {
  const auto floats = [](const Tensor& t) { return t.data_ptr<float>(); };
  return {of.re_HN.size(0), cos_M.size(0),    of.re_HN.size(1), of.x_HNK.size(2), floats(of.re_HN),
          floats(of.im_HN), floats(of.x_HNK), floats(of.y_HNK), floats(cos_M),    floats(two_sin_M)};
}

/// On the CPU in float32. The composition's tensors of [H,N,M] would be the largest of a model by far.
class CauchySums : public torch::autograd::Function<CauchySums> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& re_HN, const Tensor& im_HN,
                        const Tensor& x_HNK, const Tensor& y_HNK, const Tensor& cos_M, const Tensor& two_sin_M) {
    const auto plain = [](const Tensor& t) { return t.contiguous().resolve_neg(); };
    const Sums of = {plain(re_HN), plain(im_HN), plain(x_HNK), plain(y_HNK)};
    context->save_for_backward({of.re_HN, of.im_HN, of.x_HNK, of.y_HNK, cos_M, two_sin_M});
    const Tensor rho_2HKM = torch::empty({2, re_HN.size(0), x_HNK.size(2), cos_M.size(0)}, re_HN.options());
    cauchy_forward_cpu(kernel_inputs_of(of, cos_M, two_sin_M), rho_2HKM[0].data_ptr<float>(),
                       rho_2HKM[1].data_ptr<float>());
    return rho_2HKM;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    refuse_second_derivatives("nplr");
    const auto saved = context->get_saved_variables();
    const Tensor g_2HKM = gradients[0].contiguous();
    torch::autograd::variable_list result;
    for (size_t i = 0; i < 4; ++i) result.push_back(torch::empty_like(saved[i]));
    cauchy_backward_cpu(kernel_inputs_of({saved[0], saved[1], saved[2], saved[3]}, saved[4], saved[5]),
                        {g_2HKM[0].data_ptr<float>(), g_2HKM[1].data_ptr<float>(), result[0].data_ptr<float>(),
                         result[1].data_ptr<float>(), result[2].data_ptr<float>(), result[3].data_ptr<float>()});
    result.insert(result.end(), {Tensor(), Tensor()});
    return result;
  }
};

/// ρ [H,M,K] of the products vu [H,N,K].
Tensor cauchy_sums(const Tensor& a_HN, const Tensor& vu_HNK, const Nodes& nodes) {
  const Sums of = {torch::real(a_HN), torch::imag(a_HN), torch::real(vu_HNK),
                   torch::real(vu_HNK * a_HN.conj().unsqueeze(2))};
  const Tensor rho_2HKM = of.re_HN.is_cpu() && use_kernel(of.re_HN)
                              ? CauchySums::apply(of.re_HN, of.im_HN, of.x_HNK, of.y_HNK, nodes.cos_M, 2 * nodes.sin_M)
                              : sums_at_once(of, nodes);
  return torch::complex(rho_2HKM[0], rho_2HKM[1]).transpose(1, 2);
}

/// ρ_cp (I + cos ρ_pp)⁻¹ ρ_pb [H,M,C] of ρ_cp [H,M,C,R], cos ρ_pp [H,M,R,R] and ρ_pb [H,M,R].
Tensor low_rank_part(const Tensor& cp, const Tensor& cos_pp, const Tensor& pb) {
  const int64_t R = pb.size(2);
  if (R == 1) return cp.squeeze(3) * pb / (1 + cos_pp.squeeze(3));
  const Tensor matrix = cos_pp + torch::eye(R, cos_pp.options().requires_grad(false));
  return torch::matmul(cp, torch::linalg_solve(matrix, pb.unsqueeze(3))).squeeze(3);
}

Tensor real_states(const Tensor& z) {
  return torch::cat({torch::real(z), torch::imag(z)}, -1);
}

/// 2 Re(c x) as a product with the real states, and back.
Tensor real_row(const Tensor& c_CHN) {
  return 2 * torch::cat({torch::real(c_CHN), -torch::imag(c_CHN)}, -1);
}
Tensor complex_row(const Tensor& c_CHX) {
  const int64_t N = c_CHX.size(2) / 2;
  return torch::complex(c_CHX.narrow(2, 0, N), -c_CHX.narrow(2, N, N)) / 2;
}

/// c f, f [H,X,X].
Tensor times(const Tensor& c_CHN, const Tensor& f_HXX) {
  return complex_row(torch::matmul(real_row(c_CHN).transpose(0, 1), f_HXX).transpose(0, 1));
}

struct Powers {
  Tensor identity_XX, power_HXX;
};

Powers powers(const NplrSystem& system, int64_t length) {
  const Tensor a_HXX = nplr_matrices(system).a_HXX;
  return {torch::eye(a_HXX.size(1), a_HXX.options().requires_grad(false)), torch::linalg_matrix_power(a_HXX, length)};
}

}  // namespace

Tensor nplr_kernel(const NplrSystem& system, const Tensor& attuned_CHN, int64_t length) {
  check_system(system, attuned_CHN, length);
  if (use_reference()) return ref::nplr_kernel(system, attuned_CHN, length);
  const int64_t H = system.a_HN.size(0), N = system.a_HN.size(1), C = attuned_CHN.size(0), R = system.p_RHN.size(0);
  // The rows c and conj(p) times the columns b and p.
  const Tensor v_HNV = torch::cat({attuned_CHN, system.p_RHN.conj()}).permute({1, 2, 0});
  const Tensor u_HNU = torch::cat({system.b_HN.unsqueeze(0), system.p_RHN}).permute({1, 2, 0});
  const Tensor vu_HNK = (v_HNV.unsqueeze(3) * u_HNU.unsqueeze(2)).reshape({H, N, (C + R) * (1 + R)});

  const Nodes nodes = nodes_of(length, torch::real(system.a_HN).options().requires_grad(false));
  const Tensor rho_HMVU = cauchy_sums(system.a_HN, vu_HNK, nodes).reshape({H, -1, C + R, 1 + R});
  const Tensor cb = rho_HMVU.narrow(2, 0, C).select(3, 0), cp = rho_HMVU.narrow(2, 0, C).narrow(3, 1, R);
  const Tensor pb = rho_HMVU.narrow(2, C, R).select(3, 0), pp = rho_HMVU.narrow(2, C, R).narrow(3, 1, R);
  const Tensor cos_M1 = nodes.cos_M.unsqueeze(1);
  const Tensor bracket_HMC = cb - cos_M1 * low_rank_part(cp, cos_M1.unsqueeze(2) * pp, pb);
  const Tensor spectrum_HMC = torch::complex(nodes.cos_M, nodes.sin_M).unsqueeze(1) * bracket_HMC;
  return torch::fft_irfft(spectrum_HMC.permute({2, 0, 1}), length);
}

NplrMatrices nplr_matrices(const NplrSystem& system) {
  const Tensor p_HXR = real_states(system.p_RHN).permute({1, 2, 0});
  const Tensor re_HNN = torch::diag_embed(torch::real(system.a_HN)),
               im_HNN = torch::diag_embed(torch::imag(system.a_HN));
  const Tensor m_HXX = torch::cat({torch::cat({re_HNN, -im_HNN}, 2), torch::cat({im_HNN, re_HNN}, 2)}, 1) -
                       2 * torch::matmul(p_HXR, p_HXR.transpose(1, 2));
  const Tensor identity = torch::eye(m_HXX.size(1), m_HXX.options().requires_grad(false));
  const Tensor right = torch::cat({identity + m_HXX / 2, real_states(system.b_HN).unsqueeze(2)}, 2);
  const Tensor solved = torch::linalg_solve(identity - m_HXX / 2, right);
  const int64_t X = identity.size(0);
  return {solved.narrow(2, 0, X), solved.select(2, X)};
}

Tensor nplr_attune(const NplrSystem& system, const Tensor& c_CHN, int64_t length) {
  check_system(system, c_CHN, length);
  const auto [identity, power] = powers(system, length);
  return times(c_CHN, identity - power);
}

Tensor nplr_unattune(const NplrSystem& system, const Tensor& attuned_CHN, int64_t length) {
  check_system(system, attuned_CHN, length);
  const auto [identity, power] = powers(system, length);
  // c F = c̃ as Fᵀ cᵀ = c̃ᵀ
  const Tensor right_HXC = real_row(attuned_CHN).permute({1, 2, 0});
  return complex_row(torch::linalg_solve((identity - power).transpose(1, 2), right_HXC).permute({2, 0, 1}));
}

AttunedRow nplr_grow(const NplrSystem& system, AttunedRow row, int64_t length) {
  check_system(system, row.c_CHN, row.length);
  while (row.length < length) {
    const auto [identity, power] = powers(system, row.length);
    row = {times(row.c_CHN, identity + power), 2 * row.length};
  }
  return row;
}

}  // namespace megalodon::ops

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  using namespace megalodon;
  m.def("nplr(Tensor a, Tensor b, Tensor p, Tensor attuned, int length) -> Tensor",
        [](const Tensor& a, const Tensor& b, const Tensor& p, const Tensor& attuned, int64_t length) {
          return ops::nplr_kernel({a, b, p}, attuned, length);
        });
}
