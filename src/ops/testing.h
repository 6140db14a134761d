// What the tests of all ops share: the comparer, float64 gradient checks, random inputs.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <vector>

#include "base/compat.h"

namespace megalodon::testing {

/// True where there is a GPU to run on; none is a failure where MEGALODON_NEED_GPU is set. Tests say
/// `if (!has_gpu()) GTEST_SKIP() << kNoGpu;`.
inline bool has_gpu() {
  if (at::hasCUDA()) return true;
  EXPECT_EQ(std::getenv("MEGALODON_NEED_GPU"), nullptr) << "no GPU, or a libtorch without CUDA";
  return false;
}
inline constexpr const char* kNoGpu = "no GPU here";

/// |got − expected| <= atol + rtol · max|expected|, elementwise; NaN fails; shapes must be equal. Prints the worst
/// element.
inline ::testing::AssertionResult close(const Tensor& got, const Tensor& expected, double rtol, double atol = 0) {
  if (got.sizes() != expected.sizes())
    return ::testing::AssertionFailure() << "shape " << got.sizes() << ", expected " << expected.sizes();
  if (got.numel() == 0) return ::testing::AssertionSuccess();
  const auto real = [](const Tensor& t) {
    return (t.is_complex() ? torch::view_as_real(t) : t).detach().to(torch::kCPU, torch::kFloat64).reshape({-1});
  };
  const Tensor a = real(got), e = real(expected), difference = (a - e).abs();
  const double bound = atol + rtol * e.abs().max().item<double>();
  if ((difference <= bound).all().item<bool>()) return ::testing::AssertionSuccess();
  const auto worst = torch::nan_to_num(difference, 1e300).argmax().item<int64_t>();
  return ::testing::AssertionFailure() << "element " << worst << " of " << got.sizes() << ": got "
                                       << a[worst].item<double>() << ", expected " << e[worst].item<double>()
                                       << ", allowed difference " << bound;
}

/// Checks autograd's gradients of a float64 function against central differences. `f` maps the inputs to one scalar.
inline void check_gradients(const std::function<Tensor(const std::vector<Tensor>&)>& f, std::vector<Tensor> inputs,
                            double rtol = 1e-6, double step = 1e-6) {
  for (Tensor& x : inputs) x = x.detach().clone().set_requires_grad(true);
  const auto gradients = torch::autograd::grad({f(inputs)}, inputs, {}, false, false, /*allow_unused=*/true);
  torch::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    Tensor flat = (inputs[i].is_complex() ? torch::view_as_real(inputs[i]) : inputs[i]).view({-1});
    Tensor expected = torch::zeros_like(flat);
    for (int64_t j = 0; j < flat.numel(); ++j) {
      const double x = flat[j].item<double>();
      flat[j] = x + step;
      const double above = f(inputs).item<double>();
      flat[j] = x - step;
      const double below = f(inputs).item<double>();
      flat[j] = x;
      expected[j] = (above - below) / (2 * step);
    }
    ASSERT_TRUE(gradients[i].defined()) << "input " << i << " has no gradient";
    const Tensor got = (gradients[i].is_complex() ? torch::view_as_real(gradients[i]) : gradients[i]).reshape({-1});
    EXPECT_TRUE(close(got, expected, rtol, 1e-8)) << "gradient of input " << i;
  }
}

}  // namespace megalodon::testing
