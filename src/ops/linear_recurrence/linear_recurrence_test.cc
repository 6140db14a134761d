// The kernel against the float64 reference, the reference against finite differences, and what streaming, packed
// documents and threads must not change. Agreement with the published CEMA is tested with the golden data of tests/.
#include "ops/linear_recurrence/linear_recurrence.h"

#include <ATen/Parallel.h>

#include "base/check.h"
#include "ops/registration.h"
#include "ops/testing.h"

namespace megalodon::ops::linear_recurrence_test {
namespace {

using testing::check_gradients;
using testing::close;

constexpr double kOutputTolerance = 1e-5, kGradientTolerance = 5e-5;

struct Case {
  int64_t B, L, D, N;
  bool h0, starts, want_state;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << "B" << c.B << "_L" << c.L << "_D" << c.D << "_N" << c.N << (c.h0 ? "_h0" : "")
             << (c.starts ? "_starts" : "") << (c.want_state ? "_state" : "");
}

// Every N that changes the grouping of orders, every D that changes the tail of a vector, every L around a block of
// time.
const Case kCases[] = {
    {1, 1, 1, 1, false, false, false},  {1, 2, 3, 2, true, false, true},    {3, 63, 16, 3, false, true, true},
    {1, 64, 17, 4, true, true, false},  {3, 65, 64, 5, true, false, true},  {1, 129, 130, 8, false, true, true},
    {3, 300, 17, 16, true, true, true}, {1, 300, 3, 24, true, false, true}, {3, 1, 130, 16, true, false, true},
    {3, 1, 16, 16, true, true, true},   {1, 1, 64, 5, false, false, true},  {3, 32, 17, 6, true, true, true},
    {1, 33, 33, 7, true, false, false}, {0, 5, 4, 2, true, true, true},     {1, 512, 16, 16, false, false, false},
    {2, 31, 1, 24, true, true, true},
};

/// Inputs of the recurrence, the leaves of its graph; dy and dh are the cotangents of its outputs.
struct Problem {
  Tensor x, q, c, skip, h0, starts, dy, dh;
  bool want_state = true;

  std::vector<Tensor> leaves() const {
    std::vector<Tensor> list = {x, q, c, skip};
    if (h0.defined()) list.push_back(h0);
    return list;
  }
  RecurrenceOptions options() const { return {h0, starts, want_state}; }

  Problem to(c10::ScalarType real) const {
    const c10::ScalarType complex = c10::toComplexType(real);
    const auto leaf = [](const Tensor& t, c10::ScalarType dtype) {
      return t.defined() ? t.detach().to(dtype, /*non_blocking=*/false, /*copy=*/true).set_requires_grad(true) : t;
    };
    return {leaf(x, real), leaf(q, complex), leaf(c, complex), leaf(skip, real), leaf(h0, complex),
            starts,        dy.to(real),      dh.to(complex),   want_state};
  }
};

/// Random, with decays from 0.5 to within 1e-4 of 1 and, for `starts`, a document every few steps and one at 0 in row
/// 0.
Problem make_problem(const Case& c, uint64_t seed = 1) {
  torch::manual_seed(seed);
  const auto complex = torch::kComplexFloat;
  const Tensor radius = 1 - torch::pow(10.0, -0.3 - 3.7 * torch::rand({c.D, c.N})),
               angle = 6.3 * torch::rand({c.D, c.N});
  Problem p;
  p.x = torch::randn({c.B, c.L, c.D});
  p.q = torch::polar(radius, angle);
  p.c = torch::randn({c.D, c.N}, complex) / std::sqrt(static_cast<double>(c.N));
  p.skip = torch::randn({c.D});
  if (c.h0) p.h0 = torch::randn({c.B, c.D, c.N}, complex);
  if (c.starts) {
    p.starts = torch::rand({c.B, c.L}) < 0.1;
    if (c.B > 0) p.starts[0][0] = true;
  }
  p.dy = torch::randn({c.B, c.L, c.D});
  p.dh = torch::randn({c.B, c.D, c.N}, complex);
  p.want_state = c.want_state;
  return p;
}

using Function = RecurrenceOut (*)(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                   const RecurrenceOptions&);

RecurrenceOut run(Function function, const Problem& p) {
  return function(p.x, p.q, p.c, p.skip, p.options());
}

/// A scalar that depends on both outputs; its gradients at the outputs are dy and dh.
Tensor loss(const RecurrenceOut& out, const Problem& p) {
  Tensor sum = (out.y_BLD * p.dy).sum();
  if (out.h_BDN.defined()) sum = sum + (torch::view_as_real(out.h_BDN) * torch::view_as_real(p.dh)).sum();
  return sum;
}

std::vector<Tensor> gradients(Function function, const Problem& p) {
  return torch::autograd::grad({loss(run(function, p), p)}, p.leaves());
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return torch::equal(a, b);
}

class LinearRecurrence : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, LinearRecurrence, ::testing::ValuesIn(kCases), ::testing::PrintToStringParamName());

TEST_P(LinearRecurrence, KernelEqualsReference) {
  const Problem p = make_problem(GetParam()).to(torch::kFloat32), oracle = p.to(torch::kFloat64);
  ASSERT_TRUE(use_kernel(p.x)) << "these tests are about the kernel";
  const RecurrenceOut got = run(linear_recurrence, p), expected = run(ref::linear_recurrence, oracle);
  EXPECT_TRUE(close(got.y_BLD, expected.y_BLD, kOutputTolerance)) << "y";
  ASSERT_EQ(got.h_BDN.defined(), GetParam().want_state);
  if (GetParam().want_state) {
    EXPECT_TRUE(close(got.h_BDN, expected.h_BDN, kOutputTolerance)) << "h";
  }
}

TEST_P(LinearRecurrence, KernelGradientsEqualReference) {
  const Problem p = make_problem(GetParam()).to(torch::kFloat32), oracle = p.to(torch::kFloat64);
  const auto got = gradients(linear_recurrence, p), expected = gradients(ref::linear_recurrence, oracle);
  ASSERT_EQ(got.size(), expected.size());
  const char* names[] = {"x", "q", "c", "skip", "h0"};
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_TRUE(close(got[i], expected[i], kGradientTolerance)) << "gradient of " << names[i];
}

TEST(LinearRecurrenceReference, GradientsEqualFiniteDifferences) {
  for (const bool starts : {false, true}) {
    const Problem p = make_problem({2, 5, 2, 3, true, starts, true}).to(torch::kFloat64);
    check_gradients(
        [&](const std::vector<Tensor>& in) {
          return loss(linear_recurrence(in[0], in[1], in[2], in[3], {in[4], p.starts, true}), p);
        },
        p.leaves());
  }
}

TEST(LinearRecurrenceStreaming, AnySplitEqualsOnePass) {
  torch::NoGradGuard no_grad;
  for (const bool starts : {false, true}) {
    const Problem p = make_problem({2, 150, 33, 6, true, starts, true});
    const RecurrenceOut whole = run(linear_recurrence, p);
    for (int64_t seed = 0; seed < 4; ++seed) {
      torch::manual_seed(seed);
      const int64_t longest = seed == 0 ? 1 : 70;  // seed 0 is decoding, a step at a time
      std::vector<Tensor> y;
      Tensor h = p.h0;
      for (int64_t t = 0; t < 150;) {
        const int64_t n = std::min<int64_t>(150 - t, torch::randint(1, longest + 1, {}).item<int64_t>());
        const Tensor starts_here = starts ? p.starts.narrow(1, t, n) : Tensor();
        const RecurrenceOut part = linear_recurrence(p.x.narrow(1, t, n), p.q, p.c, p.skip, {h, starts_here, true});
        y.push_back(part.y_BLD);
        h = part.h_BDN;
        t += n;
      }
      EXPECT_TRUE(close(torch::cat(y, 1), whole.y_BLD, kOutputTolerance)) << "seed " << seed;
      EXPECT_TRUE(close(h, whole.h_BDN, kOutputTolerance)) << "seed " << seed;
      EXPECT_EQ(h.sizes(), p.h0.sizes());
    }
  }
}

// What the first document holds, infinities included, must not reach the second by a single bit.
TEST(LinearRecurrenceDocuments, AreIsolated) {
  const int64_t first = 45, rest = 85;
  Problem p = make_problem({1, first + rest, 20, 5, true, false, true});
  p.starts = torch::zeros({1, first + rest}, torch::kBool);
  p.starts[0][first] = true;
  Problem changed = p;
  changed.x = p.x.clone();
  changed.x.narrow(1, 0, first).fill_(std::numeric_limits<float>::infinity());
  changed.dy = p.dy.clone();
  changed.dy.narrow(1, 0, first).normal_();
  p = p.to(torch::kFloat32), changed = changed.to(torch::kFloat32);
  const auto second = [&](const Tensor& t) { return t.narrow(1, first, rest); };
  const RecurrenceOut a = run(linear_recurrence, p), b = run(linear_recurrence, changed);
  EXPECT_FALSE(same_bits(a.y_BLD, b.y_BLD));
  EXPECT_TRUE(same_bits(second(a.y_BLD), second(b.y_BLD)));
  EXPECT_TRUE(same_bits(a.h_BDN, b.h_BDN));
  const auto da = gradients(linear_recurrence, p), db = gradients(linear_recurrence, changed);
  EXPECT_TRUE(same_bits(second(da[0]), second(db[0])));

  // And the second document's cotangents do not reach the first.
  Problem other = p;
  other.dy = p.dy.clone();
  second(other.dy).normal_();
  const auto dc = gradients(linear_recurrence, other);
  EXPECT_TRUE(same_bits(da[0].narrow(1, 0, first), dc[0].narrow(1, 0, first)));
  EXPECT_TRUE(same_bits(da[4], dc[4]));
  EXPECT_FALSE(same_bits(second(da[0]), second(dc[0])));
}

TEST(LinearRecurrenceDecay, ExtremesStayFiniteAndExact) {
  constexpr double kFlushed = 1e-37;  // the kernel takes denormals for zero
  for (const double radius : {0.0, 1e-38, 1e-20, 1 - 1e-7}) {
    Problem p = make_problem({1, 512, 5, 4, true, false, true});
    p.q = torch::polar(torch::full({5, 4}, radius), 6.3 * torch::rand({5, 4})).to(torch::kComplexFloat);
    p.x.narrow(1, 100, 300).zero_();  // long enough for every decaying state to pass through the denormals
    p = p.to(torch::kFloat32);
    const Problem oracle = p.to(torch::kFloat64);
    EXPECT_TRUE(close(run(linear_recurrence, p).y_BLD, run(ref::linear_recurrence, oracle).y_BLD, kOutputTolerance))
        << radius;
    const auto got = gradients(linear_recurrence, p), expected = gradients(ref::linear_recurrence, oracle);
    for (size_t i = 0; i < got.size(); ++i)
      EXPECT_TRUE(close(got[i], expected[i], kGradientTolerance, kFlushed)) << radius << " " << i;
  }
  const volatile float denormal = 1e-39F;
  EXPECT_NE(denormal * 0.5F, 0.0F) << "the caller's floating-point mode must be as it was";
}

TEST(LinearRecurrenceThreads, DoNotChangeABit) {
  const Problem p = make_problem({3, 100, 130, 6, true, true, true}).to(torch::kFloat32);
  const int threads = at::get_num_threads();
  const auto all = [&](int n) {
    at::set_num_threads(n);
    const RecurrenceOut out = run(linear_recurrence, p);
    auto list = gradients(linear_recurrence, p);
    list.insert(list.end(), {out.y_BLD, out.h_BDN});
    return list;
  };
  const auto one = all(1), two = all(2);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(same_bits(one[i], two[i])) << i;
}

TEST(LinearRecurrenceInputs, NonContiguousAndConjugatedAreAccepted) {
  const Problem p = make_problem({2, 40, 18, 4, true, true, true});
  const RecurrenceOut expected = run(linear_recurrence, p);
  const auto strided = [](const Tensor& t) { return t.transpose(0, 1).contiguous().transpose(0, 1); };
  const Tensor lazy_q = torch::conj(torch::conj_physical(p.q));
  ASSERT_TRUE(lazy_q.is_conj());
  const RecurrenceOut got =
      linear_recurrence(strided(p.x), lazy_q, strided(p.c), torch::stack({p.skip, p.skip}, 1).select(1, 0),
                        {strided(p.h0), strided(p.starts), true});
  EXPECT_TRUE(same_bits(got.y_BLD, expected.y_BLD));
  EXPECT_TRUE(same_bits(got.h_BDN, expected.h_BDN));
}

TEST(LinearRecurrenceInputs, OneOutputAloneCarriesGradients) {
  const Problem p = make_problem({2, 40, 18, 4, true, true, true}).to(torch::kFloat32), oracle = p.to(torch::kFloat64);
  const auto state_gradients = [](Function function, const Problem& q) {
    const Tensor h = run(function, q).h_BDN;
    return torch::autograd::grad({torch::real(h).sum() + 2 * torch::imag(h).sum()}, {q.x, q.q, q.h0});
  };
  const auto got = state_gradients(linear_recurrence, p), expected = state_gradients(ref::linear_recurrence, oracle);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_TRUE(close(got[i], expected[i], kGradientTolerance)) << i;
}

TEST(LinearRecurrenceInputs, HalfPrecisionIsComputedInFloat32) {
  for (const auto dtype : {torch::kBFloat16, torch::kHalf}) {
    const Problem p = make_problem({2, 40, 18, 4, true, true, true});
    const Tensor x = p.x.to(dtype).set_requires_grad(true), skip = p.skip.to(dtype);
    const RecurrenceOut got = linear_recurrence(x, p.q, p.c, skip, p.options());
    const RecurrenceOut expected =
        linear_recurrence(x.to(torch::kFloat32), p.q, p.c, skip.to(torch::kFloat32), p.options());
    EXPECT_TRUE(same_bits(got.y_BLD, expected.y_BLD.to(dtype)));
    EXPECT_TRUE(same_bits(got.h_BDN, expected.h_BDN));
    EXPECT_EQ(torch::autograd::grad({got.y_BLD.sum()}, {x})[0].scalar_type(), dtype);
  }
}

TEST(LinearRecurrenceRegistered, IsDifferentiableAndReturnsAnEmptyUnwantedState) {
  const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("megalodon::linear_recurrence", "");
  const Problem p = make_problem({2, 40, 18, 4, false, false, false}).to(torch::kFloat32);
  const auto registered =
      op.typed<std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                                          const OptionalTensor&, const OptionalTensor&, bool)>();
  const auto [y, h] = registered.call(p.x, p.q, p.c, p.skip, {}, {}, false);
  EXPECT_EQ(h.numel(), 0);
  EXPECT_TRUE(same_bits(y, run(linear_recurrence, p).y_BLD));
  EXPECT_TRUE(same_bits(torch::autograd::grad({(y * p.dy).sum()}, {p.q})[0], gradients(linear_recurrence, p)[1]));
}

/// Expects an Error whose message has the op's tag and `part`.
void expect_error(const Problem& p, const std::string& part) {
  try {
    run(linear_recurrence, p);
    ADD_FAILURE() << "no error, expected one with: " << part;
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()).find("[linear_recurrence]"), 0U) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(LinearRecurrenceErrors, NameTheInputTheRuleAndWhatCame) {
  const Problem good = make_problem({2, 6, 4, 3, true, true, true});
  const auto with = [&](const auto& change) {
    Problem p = good;
    change(p);
    return p;
  };
  expect_error(with([](Problem& p) { p.x = Tensor(); }), "x must be real [B,L,D], got an undefined tensor");
  expect_error(with([](Problem& p) { p.x = p.x[0]; }), "x must be real [B,L,D], got Float [6,4]");
  expect_error(with([](Problem& p) { p.x = p.x.narrow(1, 0, 0); }), "at least one step, got Float [2,0,4]");
  expect_error(with([](Problem& p) { p.c = Tensor(); }), "must be defined");
  expect_error(with([](Problem& p) { p.q = torch::real(p.q); }),
               "q must be complex [D,N] = [4,N] with N >= 1, got Float [4,3]");
  expect_error(with([](Problem& p) { p.q = p.q.narrow(0, 0, 2); }), "q must be complex [D,N] = [4,N]");
  expect_error(with([](Problem& p) { p.q = p.q.to(torch::kComplexDouble); }), "q must be ComplexFloat");
  expect_error(with([](Problem& p) { p.c = p.c.narrow(1, 0, 2); }),
               "c must be ComplexFloat [D,N] = [4,3], got ComplexFloat [4,2]");
  expect_error(with([](Problem& p) { p.skip = p.skip.to(torch::kFloat64); }),
               "skip must be Float [D] = [4], got Double [4]");
  expect_error(with([](Problem& p) { p.h0 = p.h0[0]; }), "h0 must be ComplexFloat [B,D,N] = [2,4,3]");
  expect_error(with([](Problem& p) { p.starts = p.starts.to(torch::kInt64); }),
               "starts must be Bool [B,L] = [2,6], got Long [2,6]");
}

TEST(LinearRecurrenceErrors, SecondDerivativesAreRefused) {
  const Problem p = make_problem({1, 6, 4, 3, false, false, false}).to(torch::kFloat32);
  const Tensor y = run(linear_recurrence, p).y_BLD;
  EXPECT_THROW(torch::autograd::grad({y.sum()}, {p.x}, {}, /*retain_graph=*/true, /*create_graph=*/true), Error);
}

}  // namespace
}  // namespace megalodon::ops::linear_recurrence_test
