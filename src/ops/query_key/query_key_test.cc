// Proofs of query_key: what it replaces, parity, gradients, types, threads, errors.
#include "ops/query_key/query_key.h"

#include "base/check.h"
#include "ops/rotary/rotary.h"
#include "ops/row_norm/row_norm.h"
#include "ops/testing.h"

namespace megalodon::ops::query_key_test {
namespace {

using megalodon::testing::check_gradients;
using megalodon::testing::close;
using Function = std::function<QueryKey(const std::vector<Tensor>& leaves, const Tensor& position)>;

constexpr double kEps = 1e-5, kBase = 10000;

const Function kKernel = [](const std::vector<Tensor>& t, const Tensor& position) {
  return query_key(t[0], t[1], t[2], position, kEps, kBase);
};

/// The definition on angles that float32 can hold: those of the model, whatever z's dtype.
const Function kExact = [](const std::vector<Tensor>& t, const Tensor& position) {
  const int64_t H = t[0].size(2), K = t[0].size(3);
  const Tensor angle = (position.to(torch::kFloat32).unsqueeze(-1) * rotary_frequencies(K, kBase)).to(torch::kFloat64);
  const Tensor cosine = torch::cos(angle).unsqueeze(2), sine = torch::sin(angle).unsqueeze(2);
  const Tensor unit = t[0] / (t[0].square().mean(-1, true) + kEps).sqrt();
  const auto y = [&](int64_t i) {
    const Tensor pair = (unit * t[1][i].view({H, K}) + t[2][i].view({H, K})).unflatten(-1, {K / 2, 2});
    const Tensor even = pair.select(-1, 0), odd = pair.select(-1, 1);
    return torch::stack({even * cosine - odd * sine, even * sine + odd * cosine}, -1).flatten(-2);
  };
  return QueryKey{y(0), y(1)};
};

struct Problem {
  std::vector<Tensor> leaves;  // z, scale, shift
  Tensor position, dq, dk;
};

Problem make_problem(int64_t B, int64_t L, int64_t H, int64_t K, int64_t period) {
  torch::manual_seed(static_cast<uint64_t>(L * K));
  const Tensor position = (torch::arange(L, torch::kInt64) % period).expand({B, L});
  return {{2 * torch::randn({B, L, H, K}), torch::randn({2, H * K}), torch::randn({2, H * K})},
          position,
          torch::randn({B, L, H, K}),
          torch::randn({B, L, H, K})};
}

/// q, k and the gradients of z, scale and shift.
std::vector<Tensor> run(const Function& f, const Problem& p, bool exact) {
  const auto number = [&](const Tensor& t) { return exact ? t.to(torch::kFloat64) : t; };
  std::vector<Tensor> leaves;
  for (const Tensor& t : p.leaves) leaves.push_back(number(t).detach().clone().set_requires_grad(true));
  const auto [q, k] = f(leaves, p.position);
  std::vector<Tensor> results =
      torch::autograd::grad({q, k}, leaves, {p.dq.to(q.scalar_type()), p.dk.to(k.scalar_type())});
  results.insert(results.begin(), {q.detach(), k.detach()});
  return results;
}

constexpr const char* kNames[] = {"q", "k", "dz", "dscale", "dshift"};

TEST(QueryKey, IsNormAffineMapAndRotation) {
  torch::manual_seed(1);
  const Tensor z = torch::randn({2, 5, 3, 8}), scale = torch::randn({2, 24}), shift = torch::randn({2, 24});
  const Tensor position = torch::randint(0, 100, {2, 5}, torch::kInt64);
  const auto got = query_key(z, scale, shift, position, 0.1, 100);
  const Tensor unit = rms_norm(z, {}, 0.1).view({2, 5, 24});
  for (const int64_t i : {0, 1}) {
    const Tensor expected = rotary(torch::addcmul(shift[i], unit, scale[i]).view({2, 5, 3, 8}), position, 100);
    EXPECT_TRUE(close(i == 0 ? got.q_BLHK : got.k_BLHK, expected, 1e-6));
  }
}

TEST(QueryKey, KernelMatchesFloat64) {
  struct Case {
    int64_t B, L, H, K, period;
  };
  // One pair, rows shorter and longer than a vector, odd numbers of pairs, serial and parallel sizes.
  for (const auto& [B, L, H, K, period] : std::vector<Case>{{1, 1, 1, 2, 1},
                                                            {2, 7, 2, 6, 5},
                                                            {1, 129, 3, 34, 40},
                                                            {3, 40, 1, 256, 40},
                                                            {2, 700, 3, 64, 256},
                                                            {1, 33, 2, 1030, 33}}) {
    SCOPED_TRACE(fmt::format("B{} L{} H{} K{}", B, L, H, K));
    const Problem p = make_problem(B, L, H, K, period);
    const auto got = run(kKernel, p, false), expected = run(kExact, p, true);
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 1e-6)) << kNames[i];
  }
}

TEST(QueryKey, FarPositions) {
  Problem p = make_problem(1, 9, 2, 16, 9);
  p.position = p.position + 999000;  // more positions than tokens
  const auto got = run(kKernel, p, false), expected = run(kExact, p, true);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], 1e-6)) << kNames[i];
}

TEST(QueryKey, GradientsMatchFiniteDifferences) {
  torch::manual_seed(2);
  const auto options = torch::dtype(torch::kFloat64);
  const Tensor position = torch::arange(3, torch::kInt64).expand({2, 3}) + 3;
  const Tensor dq = torch::randn({2, 3, 2, 4}, options), dk = torch::randn({2, 3, 2, 4}, options);
  check_gradients(
      [&](const std::vector<Tensor>& t) {
        const auto [q, k] = query_key(t[0], t[1], t[2], position, kEps, 100);
        return (q * dq).sum() + (k * dk).sum();
      },
      {torch::randn({2, 3, 2, 4}, options), torch::randn({2, 8}, options), torch::randn({2, 8}, options)});
}

TEST(QueryKey, OnlyOneResultMayBeUsed) {
  Problem p = make_problem(1, 12, 2, 8, 12);
  p.dk.zero_();
  const auto expected = run(kKernel, p, false);
  const Tensor z = p.leaves[0].clone().set_requires_grad(true);
  const auto got = query_key(z, p.leaves[1], p.leaves[2], p.position, kEps, kBase);
  EXPECT_TRUE(torch::equal(torch::autograd::grad({got.q_BLHK}, {z}, {p.dq})[0], expected[2]));
}

// As exact as the type of each result allows.
TEST(QueryKey, TakesBfloat16) {
  constexpr double kRounding = 1.0 / 256;  // half a unit of the last of 8 bits
  for (const bool narrow_y : {false, true}) {
    for (const auto z_type : {torch::kFloat32, torch::kBFloat16}) {
      const auto y_type = narrow_y ? torch::kBFloat16 : torch::kFloat32;
      SCOPED_TRACE(fmt::format("{} to {}", torch::toString(z_type), torch::toString(y_type)));
      Problem p = make_problem(2, 150, 3, 34, 75);
      p.leaves[0] = p.leaves[0].to(z_type);
      p.dq = p.dq.to(y_type), p.dk = p.dk.to(y_type);
      const Function kernel = [&](const std::vector<Tensor>& t, const Tensor& position) {
        return query_key(t[0], t[1], t[2], position, kEps, kBase, y_type);
      };
      const auto got = run(kernel, p, false), expected = run(kExact, p, true);
      const torch::ScalarType types[] = {y_type, y_type, z_type, torch::kFloat32, torch::kFloat32};
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_EQ(got[i].scalar_type(), types[i]) << kNames[i];
        EXPECT_TRUE(close(got[i], expected[i], types[i] == torch::kFloat32 ? 1e-6 : kRounding)) << kNames[i];
      }
    }
  }
  const Problem p = make_problem(1, 4, 1, 8, 4);
  EXPECT_EQ(query_key(p.leaves[0].to(torch::kBFloat16), p.leaves[1], p.leaves[2], p.position, kEps, kBase)
                .k_BLHK.scalar_type(),
            torch::kBFloat16);
}

TEST(QueryKey, SameBitsForAnyNumberOfThreads) {
  const Problem p = make_problem(2, 700, 3, 64, 256);
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = run(kKernel, p, false);
  at::set_num_threads(3);
  const auto three = run(kKernel, p, false);
  at::set_num_threads(before);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(torch::equal(one[i], three[i])) << kNames[i];
}

TEST(QueryKey, LayoutsAndEmptyInputs) {
  Problem p = make_problem(2, 9, 3, 8, 9);
  const auto expected = run(kKernel, p, false);
  p.leaves[0] = p.leaves[0].transpose(1, 2).contiguous().transpose(1, 2);
  p.dq = p.dq.transpose(0, 1).contiguous().transpose(0, 1);
  const auto got = run(kKernel, p, false);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(torch::equal(got[i], expected[i])) << kNames[i];
  const auto nothing =
      query_key(torch::zeros({2, 0, 3, 8}), p.leaves[1], p.leaves[2], torch::zeros({2, 0}, torch::kInt64), kEps, kBase);
  EXPECT_EQ(nothing.q_BLHK.sizes(), (std::vector<int64_t>{2, 0, 3, 8}));
}

TEST(QueryKey, WrongInputsAreRefused) {
  const Tensor z = torch::zeros({1, 3, 2, 4}), scale = torch::ones({2, 8}), shift = torch::zeros({2, 8});
  const Tensor position = torch::zeros({1, 3}, torch::kInt64);
  const auto expect_error = [](const char* text, const auto& call) {
    try {
      call();
      ADD_FAILURE() << "no error with " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  const auto call = [&](const Tensor& a, const Tensor& b, const Tensor& c, const Tensor& at, double eps = kEps) {
    return [=] { query_key(a, b, c, at, eps, kBase); };
  };
  expect_error("[query_key] x must have 4 axes", call(z[0], scale, shift, position));
  expect_error("[query_key] scale must be [2,8]", call(z, scale[0], shift, position));
  expect_error("[query_key] shift must be [2,8]", call(z, scale, shift.slice(1, 1), position));
  expect_error("[query_key] shift must be a tensor", call(z, scale, {}, position));
  expect_error("[query_key] head_dim must be even",
               call(z.slice(3, 1), torch::ones({2, 6}), torch::ones({2, 6}), position));
  expect_error("[query_key] position must have shape", call(z, scale, shift, position.slice(1, 1)));
  expect_error("[query_key] position must be int64", call(z, scale, shift, position.to(torch::kInt32)));
  expect_error("[query_key] position must be >= 0", call(z, scale, shift, position - 1));
  expect_error("[query_key] eps must be positive", call(z, scale, shift, position, 0));
}

}  // namespace
}  // namespace megalodon::ops::query_key_test
