// What holds of every state space, whatever its numbers; the numbers are tested with the golden data of tests/.
#include "nn/state_space.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "nn/hippo.h"
#include "ops/long_convolution/long_convolution.h"
#include "ops/testing.h"

namespace megalodon::nn::state_space_test {
namespace {

using testing::close;

/// 6 features, 4 pairs of states, 3 rows, 2 channels.
StateSpaceParameters random_parameters(int64_t rank, bool real = false) {
  torch::manual_seed(1);
  StateSpaceParameters p;
  p.inv_dt = torch::rand({6, 1}) * 3 - 4;
  p.A_real = torch::rand({3, 4}) - 1;
  if (!real) p.A_imag = 3 * torch::arange(4).expand({3, 4}) + torch::rand({3, 4});
  const auto complex = [&](std::vector<int64_t> sizes) {
    if (!real) sizes.push_back(2);
    return torch::randn(sizes);
  };
  p.B = complex({1, 3, 4}), p.C = complex({2, 6, 4});
  if (rank > 0) p.P = complex({rank, 3, 4});
  return p;
}

TEST(StateSpace, RecurrenceAndConvolutionAreOneFunction) {
  torch::manual_seed(2);
  const Tensor u = torch::randn({2, 21, 6}, torch::kFloat64), skip = torch::randn({2, 6}, torch::kFloat64);
  for (const int64_t rank : {0, 1, 2})
    for (const char* discretization : {"zoh", "bilinear"})
      for (const int64_t attuned : {0, 8, 40}) {
        const StateSpace space = state_space(random_parameters(rank));
        const StateSpaceUse use = {discretization, attuned};
        const Tensor kernel = convolution_kernel(space, use, 21, torch::kFloat64);
        const Tensor expected = ops::long_convolution(u, kernel, skip);
        const Tensor got = run(recurrence(space, use, torch::kFloat64), u, skip).y_BLD;
        EXPECT_TRUE(close(got, expected, 1e-9)) << rank << discretization << attuned;
      }
}

TEST(StateSpace, APastIsHeardAsTheRecurrenceSays) {
  const StateSpace space = state_space(random_parameters(1));
  const StateSpaceUse use = {"", 16};
  const auto steps = recurrence(space, use, torch::kFloat64);
  const Tensor silence = torch::zeros({3, 25, 6}, torch::kFloat64), skip = torch::zeros({2, 6}, torch::kFloat64);
  const Tensor state = torch::randn({3, 6, 4}, torch::kComplexDouble);
  EXPECT_TRUE(close(response(space, use, state, 25, torch::kFloat64),
                    run(steps, silence, skip, {state, {}, false}).y_BLD, 1e-9));
}

/// x_L = e^(LΔA) x_0 + … of the ODE itself: a constant input held for a step is what zoh means.
TEST(StateSpace, ZeroOrderHoldIsExactForConstantInputs) {
  for (const bool real : {false, true}) {
    const StateSpace space = state_space(random_parameters(0, real));
    const DiagonalSystem once = discretize(space, "zoh");
    StateSpace halved = space;
    halved.dt = space.dt / 2;
    const DiagonalSystem half = discretize(halved, "zoh");
    EXPECT_TRUE(close(half.q_HN * half.q_HN, once.q_HN, 1e-14));
    EXPECT_TRUE(close(half.q_HN * half.b_HN + half.b_HN, once.b_HN, 1e-14));
  }
}

TEST(StateSpace, TinyStepsKeepTheirDigitsAndGradients) {
  const Tensor inv_dt = torch::tensor({-40.0, -12.0, -7.0, -6.5}, torch::kFloat64).view({4, 1}).requires_grad_();
  const auto ones = [](std::vector<int64_t> sizes) { return torch::ones(sizes, torch::kFloat64); };
  const StateSpace space =
      state_space({inv_dt, ones({4, 1}) * 0, ones({4, 1}), ones({1, 4, 1, 2}), ones({1, 4, 1, 2}), {}});
  const DiagonalSystem zoh = discretize(space, "zoh"), bilinear = discretize(space, "bilinear");
  // They agree to the second order of the step.
  const Tensor relative = ((zoh.b_HN - bilinear.b_HN) / bilinear.b_HN).abs() / space.dt.square();
  EXPECT_LT(relative.slice(0, 1).max().item<double>(), 1);
  torch::real(zoh.b_HN / space.dt).sum().backward();
  EXPECT_TRUE(inv_dt.grad().isfinite().all().item<bool>());
}

TEST(StateSpace, UnknownNamesAreRefused) {
  const auto p = random_parameters(0);
  EXPECT_THROW(state_space(p, {"tanh", "exp"}), UsageError);
  EXPECT_THROW(state_space(p, {"exp", "tanh"}), UsageError);
  EXPECT_THROW(discretize(state_space(p), "euler"), UsageError);
  EXPECT_THROW(hippo("fourier", 4), UsageError);
  EXPECT_THROW(hippo("legs", 5), Error);
  EXPECT_THROW(diagonal_a("cubic", 4), UsageError);
}

TEST(Hippo, TheEigenbasisGivesTheMatrixBack) {
  for (const char* measure : {"legs", "legt"})
    for (const int64_t n : {2, 16}) {
      const Hippo h = hippo(measure, n);
      const NormalPlusLowRank d = diagonalize(h);
      const auto whole = [](const Tensor& half) { return 2 * torch::real(half); };
      const Tensor normal = whole(torch::matmul(d.v_nN * d.a_N, d.v_nN.conj().t()));
      EXPECT_TRUE(close(normal, h.A_NN + torch::matmul(h.P_RN.t(), h.P_RN), 1e-12)) << measure << n;
      EXPECT_TRUE(close(whole(torch::matmul(d.v_nN, d.b_N)), h.B_N, 1e-12)) << measure << n;
      EXPECT_TRUE(close(whole(torch::matmul(d.p_RN, d.v_nN.t())), h.P_RN, 1e-12)) << measure << n;
    }
}

}  // namespace
}  // namespace megalodon::nn::state_space_test
