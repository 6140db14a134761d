#include "ops/linear_recurrence/linear_recurrence.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {
namespace linear_recurrence_bench {

Tensors inputs(int64_t B, int64_t L, int64_t D, int64_t N, torch::Device device, torch::ScalarType type) {
  const Tensor q = torch::polar(1 - torch::pow(10.0, -0.3 - 2.7 * torch::rand({D, N})), 6.3 * torch::rand({D, N}));
  return {normal({B, L, D}, device, type), q, torch::randn({D, N}, torch::kComplexFloat), torch::randn({D}),
          torch::randn({B, D, N}, torch::kComplexFloat)};
}

/// As a convolution with the kernel Re Σ_n c_n q_n^t, through the tensor library's FFT: what is done without a scan.
Tensor by_fft(const Tensors& t) {
  const int64_t L = t[0].size(1);
  const Tensor powers_DNL = torch::exp(t[1].log().unsqueeze(-1) * torch::arange(L, t[0].options()));
  const Tensor kernel_LD = torch::real((t[2].unsqueeze(-1) * powers_DNL).sum(1)).t();
  const Tensor product = torch::fft_rfft(t[0], 2 * L, 1) * torch::fft_rfft(kernel_LD, 2 * L, 0);
  return torch::fft_irfft(product, 2 * L, 1).narrow(1, 0, L) + t[3] * t[0];
}

Operator training(int64_t B, int64_t L, int64_t D, int64_t N, torch::Device device,
                  torch::ScalarType type = torch::kFloat32) {
  const auto steps = static_cast<double>(B * L * D), orders = static_cast<double>(D * N);
  const auto n = static_cast<double>(N);
  return {.name = "linear_recurrence",
          .shape = fmt::format("B={} L={} D={} N={}{}", B, L, D, N, type_text(type)),
          .leaves = 4,
          .inputs = inputs(B, L, D, N, device, type),
          .checked = inputs(B, std::min<int64_t>(L, 40), D, N, device, type),
          .kernel = [](const Tensors& t) { return linear_recurrence(t[0], t[1], t[2], t[3]).y_BLD; },
          .reference = [](const Tensors& t) { return ref::linear_recurrence(t[0], t[1], t[2], t[3]).y_BLD; },
          .forward = {bytes_of(type) * 2 * steps + 16 * orders, 12 * n * steps},
          .backward = {bytes_of(type) * 3 * steps + 32 * orders, 42 * n * steps},
          .tolerance = tolerance_of(type, 1e-5)};
}

/// One step from state to state.
Operator decoding(int64_t D, int64_t N) {
  const auto orders = static_cast<double>(D * N);
  return {.name = "linear_recurrence",
          .shape = fmt::format("B=1 L=1 D={} N={}, with state", D, N),
          .inputs = inputs(1, 1, D, N, torch::kCPU, torch::kFloat32),
          .kernel =
              [](const Tensors& t) {
                return linear_recurrence(t[0], t[1], t[2], t[3], {t[4], {}, true}).h_BDN;
              },
          .reference =
              [](const Tensors& t) {
                return ref::linear_recurrence(t[0], t[1], t[2], t[3], {t[4], {}, true}).h_BDN;
              },
          .forward = {4 * 8 * orders, 12 * orders}};
}

}  // namespace linear_recurrence_bench

std::vector<Case> linear_recurrence_cases(torch::Device device) {
  using namespace linear_recurrence_bench;
  if (device.is_cuda())
    return cases({training(1, 32768, 2048, 16, device), training(1, 32768, 2048, 16, device, torch::kBFloat16),
                  training(8, 4096, 2048, 16, device, torch::kBFloat16), decoding(4096, 16)},
                 device);
  Operator fft = training(1, 2048, 1024, 16, device);
  fft.name = "the same by FFT", fft.leaves = 0, fft.kernel = by_fft, fft.tolerance = 1e-3;
  return cases({training(1, 2048, 1024, 16, device), fft, training(1, 2048, 384, 8, device),
                training(8, 512, 384, 16, device), decoding(1024, 16), decoding(4096, 16)},
               device);
}

[[maybe_unused]] const bool linear_recurrence_added = add_cases("linear_recurrence", linear_recurrence_cases);

}  // namespace
}  // namespace megalodon::ops::bench
