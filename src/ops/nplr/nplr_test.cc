// The generating function against powers of the matrix, and gradients against finite differences. Agreement with the
// published S4 is tested with the golden data of tests/.
#include "ops/nplr/nplr.h"

#include <gtest/gtest.h>

#include "base/check.h"
#include "ops/nplr/nplr_testing.h"
#include "ops/testing.h"

namespace megalodon::ops::nplr_test {
namespace {

using testing::check_gradients;
using testing::close;
using testing::random_nplr;
using testing::to;

const auto kComplex = torch::dtype(torch::kComplexDouble);

TEST(Nplr, equals_the_powers_of_the_matrix) {
  // Odd and even lengths: at even ones the generating function's pole is among the nodes.
  for (const int64_t length : {1, 2, 7, 64, 129})
    for (const int64_t rank : {1, 2})
      for (const int64_t channels : {1, 3}) {
        SCOPED_TRACE(::testing::PrintToString(std::vector<int64_t>{length, rank, channels}));
        const NplrSystem system = random_nplr(4, 5, rank);
        const Tensor attuned = nplr_attune(system, torch::randn({channels, 4, 5}, kComplex), length);
        const Tensor expected = ref::nplr_kernel(system, attuned, length);
        EXPECT_TRUE(close(nplr_kernel(system, attuned, length), expected, 1e-10));
        const Tensor single = nplr_kernel(to(system, torch::kComplexFloat), attuned.to(torch::kComplexFloat), length);
        EXPECT_EQ(single.scalar_type(), torch::kFloat32);
        EXPECT_TRUE(close(single, expected, 1e-5));
      }
}

TEST(Nplr, gradients_match_central_differences) {
  for (const int64_t rank : {1, 2}) {
    const NplrSystem system = random_nplr(2, 3, rank);
    const Tensor attuned = torch::randn({2, 2, 3}, kComplex);
    for (const int64_t length : {6, 5}) {
      const Tensor dk = torch::randn({2, 2, length}, torch::kFloat64);
      const auto loss = [&](const std::vector<Tensor>& t) {
        return (nplr_kernel({t[0], t[1], t[2]}, t[3], length) * dk).sum();
      };
      check_gradients(loss, {system.a_HN, system.b_HN, system.p_RHN, attuned}, 1e-5);
    }
  }
}

/// Float32 sums run on a kernel: nodes around whole vectors, pairs around groups of four.
TEST(Nplr, float32_gradients_match_float64) {
  for (const int64_t length : {1, 2, 29, 64, 500})
    for (const int64_t rank : {1, 2})
      for (const int64_t channels : {1, 2}) {
        SCOPED_TRACE(::testing::PrintToString(std::vector<int64_t>{length, rank, channels}));
        const NplrSystem system = random_nplr(3, 9, rank);
        const Tensor attuned = torch::randn({channels, 3, 9}, kComplex);
        const Tensor dk = torch::randn({channels, 3, length}, torch::kFloat64);
        const auto gradients_in = [&](c10::ScalarType complex) {
          std::vector<Tensor> leaves;
          for (const Tensor& t : {system.a_HN, system.b_HN, system.p_RHN, attuned})
            leaves.push_back(t.to(complex, false, /*copy=*/true).requires_grad_());
          const Tensor kernel = nplr_kernel({leaves[0], leaves[1], leaves[2]}, leaves[3], length);
          return torch::autograd::grad({(kernel * dk.to(kernel.scalar_type())).sum()}, leaves);
        };
        const auto exact = gradients_in(torch::kComplexDouble), got = gradients_in(torch::kComplexFloat);
        for (size_t i = 0; i < exact.size(); ++i) EXPECT_TRUE(close(got[i], exact[i], 5e-5)) << i;
      }
}

/// K_l does not depend on the length that c is attuned to.
TEST(Nplr, attuned_rows_give_one_kernel) {
  const NplrSystem system = random_nplr(3, 4, 1);
  const Tensor c = torch::randn({2, 3, 4}, kComplex);
  const Tensor attuned = nplr_attune(system, c, 24);
  EXPECT_TRUE(close(nplr_unattune(system, attuned, 24), c, 1e-9));
  const AttunedRow grown = nplr_grow(system, {attuned, 24}, 49);
  EXPECT_EQ(grown.length, 96);
  EXPECT_TRUE(close(grown.c_CHN, nplr_attune(system, c, 96), 1e-11));
  EXPECT_EQ(nplr_grow(system, {attuned, 24}, 24).length, 24);
  const Tensor kernel = nplr_kernel(system, grown.c_CHN, 96);
  EXPECT_TRUE(close(kernel.narrow(2, 0, 24), nplr_kernel(system, attuned, 24), 1e-9));
  const Tensor other = nplr_kernel(system, nplr_attune(system, c, 37), 37);
  EXPECT_TRUE(close(kernel.narrow(2, 0, 37), other, 1e-9));
}

TEST(Nplr, wrong_arguments_are_named) {
  const NplrSystem system = random_nplr(3, 4, 1);
  const Tensor c = torch::randn({1, 3, 4}, kComplex);
  const auto expect_error = [](const char* text, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  expect_error("a must be complex", [&] { nplr_kernel({torch::real(system.a_HN), {}, {}}, c, 8); });
  expect_error("b must be", [&] { nplr_kernel({system.a_HN, {}, system.p_RHN}, c, 8); });
  expect_error("p must be", [&] { nplr_kernel({system.a_HN, system.b_HN, system.b_HN}, c, 8); });
  expect_error("c must be", [&] { nplr_kernel(system, c.to(torch::kComplexFloat), 8); });
  expect_error("length must be positive", [&] { nplr_kernel(system, c, 0); });
}

}  // namespace
}  // namespace megalodon::ops::nplr_test
