#include "ops/linear/linear.h"

#include <sys/time.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <thread>

#include "base/check.h"
#include "ops/linear/matrix_product.h"
#include "ops/testing.h"

namespace megalodon::ops {
namespace {

using testing::close;

struct Result {
  Tensor y, dx, dw, db;
};

/// y and its gradients for the cotangent dy, with inputs of `type`, in float64.
Result run(const std::function<Tensor(const Tensor&, const Tensor&, const Tensor&)>& op, const Result& in,
           torch::ScalarType type) {
  const auto leaf = [&](const Tensor& t) { return t.to(type).detach().requires_grad_(); };
  const Tensor x = leaf(in.dx), w = leaf(in.dw), b = leaf(in.db);
  const Tensor y = op(x, w, b);
  const auto gradients = torch::autograd::grad({y}, {x, w, b}, {in.y.to(y.scalar_type())});
  const auto wide = [](const Tensor& t) { return t.detach().to(torch::kFloat64); };
  return {wide(y), wide(gradients[0]), wide(gradients[1]), wide(gradients[2])};
}

/// x, w, b and the cotangent of y, in the places of their results.
Result make_inputs(int64_t tokens, int64_t in, int64_t out) {
  torch::manual_seed(5);
  return {torch::randn({2, tokens, out}), torch::randn({2, tokens, in}), torch::randn({out, in}), torch::randn({out})};
}

Tensor in_bfloat16(const Tensor& x, const Tensor& w, const Tensor& b) {
  return linear(x, w, b, Precision::kBfloat16);
}

double error(const Tensor& got, const Tensor& expected) {
  return (got - expected).norm().item<double>();
}

TEST(Linear, Bfloat16IsAtMostTwiceAsFarFromFloat64AsThePlainComposition) {
  const auto plain = [](const Tensor& x, const Tensor& w, const Tensor& b) { return torch::linear(x, w, b); };
  // Inputs, outputs and gradients are rounded, sums are not. (libtorch's own bfloat16 depends on the processor.)
  const auto round = [](const Tensor& t) { return t.to(torch::kBFloat16).to(torch::kFloat32); };
  const auto rounded = [&](const Tensor& x, const Tensor& w, const Tensor& b) {
    return round(torch::linear(round(x), round(w), round(b)));
  };
  for (const auto& [tokens, in, out] :
       std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {1, 512, 4}, {3, 7, 5}, {130, 96, 65}, {64, 1024, 128}}) {
    SCOPED_TRACE(c10::str(tokens, " tokens ", in, " to ", out));
    Result inputs = make_inputs(tokens, in, out);
    inputs.y = inputs.y.to(torch::kBFloat16).to(torch::kFloat32);  // a cotangent as the products read it
    const Result exact = run(plain, inputs, torch::kFloat64), low = run(rounded, inputs, torch::kFloat32);
    const Result got = run(in_bfloat16, inputs, torch::kFloat32);
    for (const auto part : {&Result::y, &Result::dx, &Result::dw, &Result::db}) {
      const double floor = 1e-6 * (exact.*part).norm().item<double>();
      EXPECT_LE(error(got.*part, exact.*part), 2 * error(low.*part, exact.*part) + floor);
    }
    EXPECT_LE(error(got.db, exact.db), 1e-6 * exact.db.norm().item<double>()) << "sums of gradients are float32";
  }
}

TEST(Linear, Float32AgreesWithFloat64) {
  for (const auto& [tokens, in, out] :
       std::vector<std::array<int64_t, 3>>{{1, 1, 1}, {1, 512, 4}, {3, 7, 5}, {130, 96, 65}, {64, 1024, 128}}) {
    SCOPED_TRACE(c10::str(tokens, " tokens ", in, " to ", out));
    const Result inputs = make_inputs(tokens, in, out);
    const auto plain = [](const Tensor& x, const Tensor& w, const Tensor& b) { return torch::linear(x, w, b); };
    const auto ours = [](const Tensor& x, const Tensor& w, const Tensor& b) {
      return linear(x, w, b, Precision::kFloat32);
    };
    const Result exact = run(plain, inputs, torch::kFloat64), got = run(ours, inputs, torch::kFloat32);
    for (const auto part : {&Result::y, &Result::dx, &Result::dw, &Result::db})
      EXPECT_TRUE(close(got.*part, exact.*part, 1e-6));
    torch::NoGradGuard no_grad;  // which reads the weight as it is
    EXPECT_TRUE(close(ours(inputs.dx, inputs.dw, inputs.db), exact.y, 1e-6));
  }
}

// What libtorch's own loop over bfloat16 matrices gets wrong: 512 ones are 256 there.
TEST(Linear, PartialSumsAreFloat32) {
  for (const int64_t rows : {1, 2, 100})
    for (const int64_t inner : {1, 512, 4096})
      for (const int64_t columns : {1, 8, 50}) {
        SCOPED_TRACE(c10::str(rows, " x ", inner, " x ", columns));
        const Result in{torch::ones({rows, columns}), torch::ones({rows, inner}), torch::ones({columns, inner}),
                        torch::zeros({columns})};
        const Result got = run(in_bfloat16, in, torch::kFloat32);
        const auto all = [](const Tensor& t, int64_t value) { return t.eq(value).all().item<bool>(); };
        EXPECT_TRUE(all(got.y, inner));
        EXPECT_TRUE(all(got.dx, columns));
        EXPECT_TRUE(all(got.dw, rows));
      }
}

TEST(Linear, KeptCopiesOfTheWeightFollowIt) {
  torch::manual_seed(8);
  const auto packed = c10::make_intrusive<PackedWeight>();
  const Tensor x = torch::randn({40, 8}).requires_grad_(), w = torch::randn({5, 8}).requires_grad_();
  for (const auto precision : {Precision::kFloat32, Precision::kBfloat16, Precision::kFloat32}) {
    for (int step = 0; step < 3; ++step) {
      const auto forward_and_back = [&](const PackedWeightPtr& copies) {
        const Tensor y = linears(x, {{.weight = w, .packed = copies}}, precision)[0];
        return std::pair(y.detach(), torch::autograd::grad({y.square().sum()}, {x})[0]);
      };
      const auto [y, dx] = forward_and_back(packed);
      const auto [expected_y, expected_dx] = forward_and_back({});
      EXPECT_TRUE(torch::equal(y, expected_y) && torch::equal(dx, expected_dx)) << step;
      torch::NoGradGuard no_grad;
      Tensor(w).mul_(1.5);
    }
    Tensor(w).set_data(torch::randn({5, 8}));
  }
  linears(x, {{.weight = w, .packed = packed}}, Precision::kFloat32);
  Tensor(w).set_data(torch::randn({5, 8}));
  EXPECT_TRUE(torch::equal(linears(x, {{.weight = w, .packed = packed}}, Precision::kFloat32)[0],
                           linears(x, {{.weight = w}}, Precision::kFloat32)[0]));
}

TEST(Linear, DtypesAreThoseOfWhatTheyBelongTo) {
  torch::manual_seed(9);
  const Tensor x = torch::randn({6, 8}).to(torch::kBFloat16).requires_grad_(),
               w = torch::randn({5, 8}).requires_grad_();
  const Tensor addend = torch::randn({6, 5}).requires_grad_();
  EXPECT_EQ(linear(x, w, {}, Precision::kBfloat16).scalar_type(), torch::kBFloat16);
  const Tensor y = linears(x, {{.weight = w, .addend = addend}}, Precision::kBfloat16)[0];
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  const auto gradients = torch::autograd::grad({y.sum()}, {x, w, addend});
  EXPECT_EQ(gradients[0].scalar_type(), torch::kBFloat16);
  EXPECT_EQ(gradients[1].scalar_type(), torch::kFloat32);
  EXPECT_EQ(gradients[2].scalar_type(), torch::kFloat32);
}

/// y of every layer and the gradients of x and of all that the layers are made of, in float64.
std::vector<Tensor> run_layers(const Tensor& x_data, const std::vector<LinearLayer>& data, torch::ScalarType type,
                               Precision precision) {
  const auto leaf = [&](const Tensor& t) { return t.defined() ? t.to(type).detach().requires_grad_() : t; };
  const Tensor x = leaf(x_data);
  std::vector<LinearLayer> layers;
  std::vector<Tensor> inputs = {x}, cotangents;
  for (const LinearLayer& layer : data) {
    layers.push_back({leaf(layer.weight), leaf(layer.bias), {}, leaf(layer.addend)});
    for (const Tensor& t : {layers.back().weight, layers.back().bias, layers.back().addend})
      if (t.defined()) inputs.push_back(t);
  }
  auto results = linears(x, layers, precision);
  for (const Tensor& y : results) cotangents.push_back(torch::ones_like(y) + y.detach().sin());
  for (const Tensor& gradient : torch::autograd::grad(results, inputs, cotangents)) results.push_back(gradient);
  for (Tensor& t : results) t = t.detach().to(torch::kFloat64);
  return results;
}

TEST(Linear, SeveralLayersOfOneInputAndWhatIsAddedToThem) {
  torch::manual_seed(10);
  const Tensor x = torch::randn({2, 3, 8});
  const std::vector<LinearLayer> layers = {
      {.weight = torch::randn({5, 8}), .bias = torch::randn({5}), .addend = torch::randn({2, 3, 5})},
      {.weight = torch::randn({1, 8})},
      {.weight = torch::randn({9, 8}), .addend = torch::randn({2, 3, 9})}};
  for (size_t count = 1; count <= layers.size(); ++count) {
    const std::vector<LinearLayer> some(layers.begin(), layers.begin() + static_cast<int64_t>(count));
    const auto exact = run_layers(x, some, torch::kFloat64, Precision::kFloat32);
    const auto full = run_layers(x, some, torch::kFloat32, Precision::kFloat32);
    const auto low = run_layers(x, some, torch::kFloat32, Precision::kBfloat16);
    for (size_t i = 0; i < exact.size(); ++i) {
      EXPECT_TRUE(close(full[i], exact[i], 1e-6)) << count << " layers, result " << i;
      EXPECT_TRUE(close(low[i], exact[i], 2e-2)) << count << " layers, result " << i;
    }
  }
  EXPECT_THROW(linears(x, {}, Precision::kFloat32), Error);
  EXPECT_THROW(linears(x, std::vector<LinearLayer>(4, layers[1]), Precision::kFloat32), Error);
}

TEST(Linear, TakesAnyLeadingShapeAndNoBias) {
  torch::manual_seed(6);
  const Tensor w = torch::randn({5, 4}), x = torch::randn({2, 3, 4});
  const Tensor y = in_bfloat16(x.transpose(0, 1), w, {});
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{3, 2, 5}));
  EXPECT_EQ(y.scalar_type(), torch::kFloat32);
  EXPECT_TRUE(torch::equal(y.transpose(0, 1), in_bfloat16(x, w, {})));
  EXPECT_TRUE(torch::equal(y[1][0], in_bfloat16(x[0][1], w, {})));
  EXPECT_EQ(in_bfloat16(torch::randn({0, 4}), w, {}).sizes(), (std::vector<int64_t>{0, 5}));
}

TEST(Linear, GivesOnlyTheGradientsAskedFor) {
  const Result in = make_inputs(3, 8, 7);
  const Tensor w = in.dw.clone().requires_grad_();
  in_bfloat16(in.dx, w, {}).sum().backward();
  EXPECT_TRUE(w.grad().defined());
  EXPECT_FALSE(in.dx.grad().defined());
}

TEST(Linear, TakesOtherLayoutsAndDtypes) {
  torch::manual_seed(11);
  const Tensor x = torch::randn({3, 8}), wide = torch::randn({10, 16}), bias = torch::randn({10}).slice(0, 0, 10, 2);
  for (const Tensor& w :
       {wide.slice(0, 0, 10, 2).slice(1, 0, 16, 2), torch::randn({8, 5}).t(), torch::randn({1, 8}).expand({5, 8})})
    for (const auto precision : {Precision::kFloat32, Precision::kBfloat16}) {
      const Tensor leaf = x.clone().requires_grad_();
      const Tensor y = linear(leaf, w, bias, precision),
                   expected = linear(leaf, w.contiguous(), bias.contiguous(), precision);
      EXPECT_TRUE(close(y, expected, 1e-6));
      EXPECT_TRUE(
          close(torch::autograd::grad({y.sum()}, {leaf})[0], torch::autograd::grad({expected.sum()}, {leaf})[0], 1e-6));
    }
  const Tensor low = x.to(torch::kBFloat16), w = wide.narrow(1, 0, 8).to(torch::kBFloat16).requires_grad_();
  const Tensor y = linear(low, w, {}, Precision::kFloat32);  // all of it bfloat16: the tensor library's
  EXPECT_EQ(y.scalar_type(), torch::kBFloat16);
  EXPECT_EQ(torch::autograd::grad({y.sum()}, {w})[0].scalar_type(), torch::kBFloat16);
}

TEST(Linear, RunsOnSeveralThreadsAtOnce) {
  torch::manual_seed(12);
  const Tensor x = torch::randn({64, 96}), w = torch::randn({80, 96}).requires_grad_();
  const auto packed = c10::make_intrusive<PackedWeight>();
  const auto run = [&] { return linears(x, {{.weight = w, .packed = packed}}, Precision::kFloat32)[0].detach(); };
  const Tensor expected = run();
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 3; ++i)
    threads.emplace_back([&] {
      for (int turn = 0; turn < 50; ++turn)
        if (!torch::allclose(run(), expected)) ++wrong;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

/// How much oneDNN writes beside the result depends on the number of threads.
TEST(Linear, TheNumberOfThreadsMayChange) {
  const int before = at::get_num_threads();
  for (const int64_t tokens : {1, 7, 64, 1024})
    for (const auto precision : {Precision::kFloat32, Precision::kBfloat16}) {
      SCOPED_TRACE(c10::str(tokens, " tokens"));
      const Result in = make_inputs(tokens, 384, 96);
      std::vector<Result> results;
      for (const int threads : {1, 16, 3, 1}) {
        at::set_num_threads(threads);
        results.push_back(
            run([&](const Tensor& x, const Tensor& w, const Tensor& b) { return linear(x, w, b, precision); }, in,
                torch::kFloat32));
      }
      const double tolerance = precision == Precision::kFloat32 ? 1e-6 : 1e-2;
      for (const Result& result : results)
        for (const auto part : {&Result::y, &Result::dx, &Result::dw, &Result::db})
          EXPECT_TRUE(close(result.*part, results[0].*part, tolerance));
    }
  at::set_num_threads(before);
}

TEST(Linear, OlderInstructionsAreThoseAskedFor) {
  const char* isa = std::getenv("MEGALODON_CPU_ISA");
  if (isa == nullptr || std::string(isa) == "native") GTEST_SKIP() << "nothing is pinned";
  EXPECT_EQ(bfloat16_product_type(), torch::kFloat32);
}

TEST(Linear, RefusesWhatItCannotDo) {
  const Tensor x = torch::randn({3, 4}).requires_grad_(), w = torch::randn({5, 4});
  EXPECT_THROW(linear(x, w, torch::ones({4}), Precision::kFloat32), Error);
  EXPECT_THROW(linear(x, w, torch::ones({5}, torch::kBFloat16), Precision::kBfloat16), Error);
  EXPECT_THROW(linear(x, w.t(), {}, Precision::kFloat32), Error);
  EXPECT_THROW(linears(x, {{.weight = w, .addend = torch::ones({2, 5})}}, Precision::kFloat32), Error);
  EXPECT_THROW(in_bfloat16(x.to(torch::kFloat64), w.to(torch::kFloat64), {}), Error);
  const Tensor y = in_bfloat16(x, w, {}).square().sum();
  EXPECT_THROW(torch::autograd::grad({y}, {x}, {}, true, /*create_graph=*/true), Error);
}

// oneDNN's kernels move the stack register into the heap; Python's handlers ask for the signal stack, as this one does.
volatile std::sig_atomic_t signals_handled = 0;
volatile std::sig_atomic_t signals_on_heap = 0;
thread_local const char* this_threads_stack = nullptr;  // an address near its end

extern "C" void note_where_it_runs(int) {
  stack_t own;
  sigaltstack(nullptr, &own);
  const char* here = static_cast<const char*>(__builtin_frame_address(0));
  constexpr ptrdiff_t kNear = 1 << 20;
  const bool on_stack = std::abs(here - this_threads_stack) < kNear;
  const bool on_signal_stack = (own.ss_flags & SS_ONSTACK) != 0;
  if (this_threads_stack == nullptr) return;  // a thread of a library's
  signals_handled = signals_handled + 1;
  if (!on_stack && !on_signal_stack) signals_on_heap = signals_on_heap + 1;
}

TEST(Linear, ASignalDuringAProductLeavesTheHeapAlone) {
  this_threads_stack = static_cast<const char*>(__builtin_frame_address(0));
  struct sigaction action = {}, before;
  action.sa_handler = note_where_it_runs;
  action.sa_flags = SA_RESTART | SA_ONSTACK;
  sigaction(SIGALRM, &action, &before);
  const itimerval often = {{0, 200}, {0, 200}}, never = {};
  setitimer(ITIMER_REAL, &often, nullptr);
  const Tensor x = torch::randn({128, 32}), dy = torch::randn({128, 256}), dw = torch::empty({256, 32});
  while (signals_handled < 1000) weight_gradient(dw, {}, dy, x, false);
  setitimer(ITIMER_REAL, &never, nullptr);
  sigaction(SIGALRM, &before, nullptr);
  EXPECT_EQ(signals_on_heap, 0);
}

}  // namespace
}  // namespace megalodon::ops
