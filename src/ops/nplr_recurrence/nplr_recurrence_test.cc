// The kernel against the float64 reference, the reference against matrices and the convolution, and what streaming must
// not change.
#include "ops/nplr_recurrence/nplr_recurrence.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "ops/long_convolution/long_convolution.h"
#include "ops/nplr/nplr_testing.h"
#include "ops/testing.h"

namespace megalodon::ops::nplr_recurrence_test {
namespace {

using testing::check_gradients;
using testing::close;
using testing::random_nplr;

struct Problem {
  NplrSystem system;
  Tensor u, c, skip;
};

Problem make_problem(int64_t B, int64_t L, int64_t D, int64_t N, int64_t R) {
  Problem p{random_nplr(D, N, R), {}, {}, {}};
  p.u = torch::randn({B, L, D}, torch::kFloat64);
  p.c = torch::randn({D, N}, torch::kComplexDouble);
  p.skip = torch::randn({D}, torch::kFloat64);
  return p;
}

Tensor single(const Tensor& t) {
  return t.defined() ? t.to(t.is_complex() ? torch::kComplexFloat : torch::kFloat32) : t;
}

NplrStep single(const NplrStep& step) {
  return {single(step.q_DN), single(step.beta_DN), single(step.f_RDN), single(step.w_RDN), single(step.phi_RD)};
}

TEST(NplrRecurrence, equals_the_convolution_and_the_matrices) {
  for (const int64_t rank : {1, 2}) {
    const Problem p = make_problem(2, 40, 3, 5, rank);
    const auto out = nplr_recurrence(p.u, nplr_step(p.system), p.c, p.skip, {{}, {}, true});
    const Tensor attuned = nplr_attune(p.system, p.c.unsqueeze(0), 40);
    const Tensor convolved = long_convolution(p.u, nplr_kernel(p.system, attuned, 40), p.skip.unsqueeze(0));
    EXPECT_TRUE(close(out.y_BLD, convolved, 1e-9));

    const NplrMatrices matrices = nplr_matrices(p.system);
    Tensor x_BDX = torch::zeros({2, 3, 10}, torch::kFloat64);
    for (int64_t t = 0; t < 40; ++t)
      x_BDX = torch::einsum("dxy,bdy->bdx", {matrices.a_HXX, x_BDX}) + matrices.b_HX * p.u.select(1, t).unsqueeze(-1);
    EXPECT_TRUE(close(torch::cat({torch::real(out.h_BDN), torch::imag(out.h_BDN)}, 2), x_BDX, 1e-11));
  }
}

TEST(NplrRecurrence, the_kernel_matches_the_float64_reference) {
  // States around whole vectors, features around a task's.
  for (const auto& [B, L, D, N, R] : {std::array<int64_t, 5>{1, 1, 1, 1, 1},
                                      {2, 33, 17, 8, 1},
                                      {1, 65, 16, 17, 2},
                                      {3, 5, 33, 32, 1},
                                      {0, 3, 2, 2, 1}})
    for (const bool with_state : {false, true}) {
      SCOPED_TRACE(::testing::PrintToString(std::array{B, L, D, N, R}));
      const Problem p = make_problem(B, L, D, N, R);
      const NplrStep step = nplr_step(p.system);
      RecurrenceOptions options, narrow;
      options.want_state = narrow.want_state = true;
      if (with_state) {
        options.h0_BDN = torch::randn({B, D, N}, torch::kComplexDouble), narrow.h0_BDN = single(options.h0_BDN);
        options.starts_BL = narrow.starts_BL = torch::rand({B, L}) < 0.2;
      }
      const auto expected = ref::nplr_recurrence(p.u, step, p.c, p.skip, options);
      const auto got = nplr_recurrence(single(p.u), single(step), single(p.c), single(p.skip), narrow);
      EXPECT_EQ(got.y_BLD.scalar_type(), torch::kFloat32);
      EXPECT_TRUE(close(got.y_BLD, expected.y_BLD, 1e-5));
      EXPECT_TRUE(close(got.h_BDN, expected.h_BDN, 1e-5));
    }
}

TEST(NplrRecurrence, gradients_match_central_differences) {
  const Problem p = make_problem(2, 5, 2, 3, 2);
  const Tensor dy = torch::randn({2, 5, 2}, torch::kFloat64), dh = torch::randn({2, 2, 3}, torch::kComplexDouble);
  const Tensor starts = torch::tensor({{false, false, true, false, false}, {true, false, false, false, true}});
  const auto loss = [&](const std::vector<Tensor>& t) {
    const auto out = nplr_recurrence(t[0], nplr_step({t[1], t[2], t[3]}), t[4], t[5], {t[6], starts, true});
    return (out.y_BLD * dy).sum() + torch::real(out.h_BDN * dh).sum();
  };
  check_gradients(
      loss,
      {p.u, p.system.a_HN, p.system.b_HN, p.system.p_RHN, p.c, p.skip, torch::randn({2, 2, 3}, torch::kComplexDouble)},
      1e-5);
}

TEST(NplrRecurrence, any_split_equals_one_pass) {
  const Problem p = make_problem(2, 30, 5, 9, 1);
  const NplrStep step = single(nplr_step(p.system));
  const Tensor u = single(p.u), c = single(p.c), skip = single(p.skip);
  const auto whole = nplr_recurrence(u, step, c, skip, {{}, {}, true});
  for (const int64_t cut : {1, 13, 29}) {
    const auto first = nplr_recurrence(u.narrow(1, 0, cut), step, c, skip, {{}, {}, true});
    const auto rest = nplr_recurrence(u.narrow(1, cut, 30 - cut), step, c, skip, {first.h_BDN, {}, true});
    EXPECT_TRUE(torch::equal(torch::cat({first.y_BLD, rest.y_BLD}, 1), whole.y_BLD));
    EXPECT_TRUE(torch::equal(rest.h_BDN, whole.h_BDN));
  }
}

TEST(NplrRecurrence, wrong_arguments_are_named) {
  const Problem p = make_problem(2, 4, 3, 5, 1);
  const NplrStep step = nplr_step(p.system);
  const auto expect_error = [](const char* text, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  expect_error("u must be", [&] { nplr_recurrence(p.u[0], step, p.c, p.skip); });
  expect_error("q must be ComplexFloat", [&] { nplr_recurrence(single(p.u), step, p.c, p.skip); });
  expect_error("c must be", [&] { nplr_recurrence(p.u, step, p.c.unsqueeze(0), p.skip); });
  expect_error("h0 must be", [&] { nplr_recurrence(p.u, step, p.c, p.skip, {p.c, {}, false}); });
  expect_error("starts must be", [&] { nplr_recurrence(p.u, step, p.c, p.skip, {{}, torch::ones({2, 4}), false}); });
}

}  // namespace
}  // namespace megalodon::ops::nplr_recurrence_test
