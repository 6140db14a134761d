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

/// A long kernel is computed a few features at a time, here one.
TEST(Nplr, features_do_not_depend_on_each_other) {
  const int64_t length = 4096;
  const NplrSystem system = random_nplr(3, 40, 1);
  const Tensor attuned = torch::randn({2, 3, 40}, kComplex), dk = torch::randn({2, 3, length}, torch::kFloat64);
  const auto gradients_of = [&](int64_t first, int64_t count) {
    const auto leaf = [&](const Tensor& t, int64_t axis) {
      return t.narrow(axis, first, count).detach().requires_grad_();
    };
    const std::vector<Tensor> leaves = {leaf(system.a_HN, 0), leaf(system.b_HN, 0), leaf(system.p_RHN, 1),
                                        leaf(attuned, 1)};
    const Tensor kernel = nplr_kernel({leaves[0], leaves[1], leaves[2]}, leaves[3], length);
    auto results = torch::autograd::grad({(kernel * dk.narrow(1, first, count)).sum()}, leaves);
    results.push_back(kernel);
    return results;
  };
  const auto together = gradients_of(0, 3);
  for (int64_t h = 0; h < 3; ++h) {
    const auto alone = gradients_of(h, 1);
    for (size_t i = 0; i < alone.size(); ++i)
      EXPECT_TRUE(close(alone[i], together[i].narrow(i < 2 ? 0 : 1, h, 1), 1e-12)) << h << " " << i;
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
