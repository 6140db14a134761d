#include "nn/hippo.h"

#include <cmath>

#include "base/check.h"

namespace megalodon::nn {
namespace {

const auto kFloat64 = torch::dtype(torch::kFloat64);

Hippo scaled_legendre(int64_t n) {
  const Tensor root_N = (2 * torch::arange(n, kFloat64) + 1).sqrt();
  const Tensor below_NN = torch::tril(root_N.outer(root_N), -1);
  return {-below_NN - torch::diag(torch::arange(n, kFloat64) + 1), root_N, (root_N / std::sqrt(2.0)).unsqueeze(0)};
}

Hippo translated_legendre(int64_t n) {
  const Tensor index_N = torch::arange(n, kFloat64), root_N = (2 * index_N + 1).sqrt();
  const Tensor lag_NN = index_N.unsqueeze(1) - index_N;
  const Tensor sign_NN = torch::where(lag_NN < 0, 1 - 2 * torch::remainder(lag_NN, 2), torch::ones_like(lag_NN));
  const Tensor odd_N = torch::remainder(index_N, 2);
  return {-root_N.outer(root_N) * sign_NN / 2, root_N / 2,
          torch::stack({root_N * odd_N, root_N * (1 - odd_N)}) / std::sqrt(2.0)};
}

}  // namespace

Hippo hippo(const std::string& measure, int64_t n) {
  check(n > 0 && n % 2 == 0, "[hippo] expected an even number of states, got {}", n);
  if (measure == "legs") return scaled_legendre(n);
  if (measure == "legt") return translated_legendre(n);
  fail_usage("[hippo] expected a measure of legs or legt, got \"{}\"", measure);
}

NormalPlusLowRank diagonalize(const Hippo& hippo) {
  const int64_t n = hippo.A_NN.size(0);
  // The normal part is a multiple of the identity plus a skew-symmetric matrix, and i times that is Hermitian.
  const Tensor normal_NN = hippo.A_NN + torch::matmul(hippo.P_RN.t(), hippo.P_RN);
  const Tensor skew_NN = (normal_NN - normal_NN.t()) / 2;
  const auto [values, vectors] = torch::linalg_eigh(torch::complex(torch::zeros_like(skew_NN), -skew_NN));
  const Tensor imaginary_N = values.narrow(0, 0, n / 2), v_nN = vectors.narrow(1, 0, n / 2);
  const Tensor real_N = normal_NN.diagonal().mean().expand({n / 2});
  const auto turned = [&](const Tensor& rows) { return torch::matmul(rows.to(torch::kComplexDouble), v_nN.conj()); };
  return {torch::complex(real_N, imaginary_N), v_nN, turned(hippo.B_N), turned(hippo.P_RN)};
}

Tensor diagonal_a(const std::string& kind, int64_t states) {
  const Tensor n_N = torch::arange(states, kFloat64);
  const auto all = static_cast<double>(2 * states);
  const auto with_half = [&](const Tensor& frequency_N) {
    return torch::complex(torch::full({states}, -0.5, kFloat64), -frequency_N);
  };
  if (kind == "lin") return with_half(M_PI * n_N);
  if (kind == "inv") return with_half(all / M_PI * (all / (2 * n_N + 1) - 1));
  if (kind == "inv2") return with_half(all / M_PI * (all / (n_N + 1) - 1));
  if (kind == "quad") return with_half((2 * n_N + 1).square() / M_PI);
  if (kind == "real") return torch::complex(-(n_N + 1), torch::zeros_like(n_N));
  if (kind == "legs") return with_half(-torch::imag(diagonalize(hippo("legs", 2 * states)).a_N));
  fail_usage("[state space] expected a diagonal of lin, inv, inv2, quad, real or legs, got \"{}\"", kind);
}

}  // namespace megalodon::nn
