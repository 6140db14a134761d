// Against the CPU kernel. Shapes: B batch, L time, G groups, K features of each, D = G K.
#include <limits>
#include <ostream>

#include "ops/cuda_testing.h"
#include "ops/timestep_norm/timestep_norm_kernel.h"

namespace megalodon::ops::timestep_norm_test {
namespace {

using namespace testing;

constexpr auto kFloat = NumberType::kFloat32;
constexpr auto kHalf = NumberType::kBfloat16;

struct Case {
  int64_t B, L, G, K;
  bool affine, state, mask, starts;
  NumberType x_type = kFloat, y_type = kFloat;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << c.B << 'x' << c.L << ", " << c.G << " groups of " << c.K << (c.affine ? " affine" : "")
             << (c.state ? " state" : "") << (c.mask ? " mask" : "") << (c.starts ? " starts" : "")
             << (c.x_type == kHalf ? " x bfloat16" : "") << (c.y_type == kHalf ? " y bfloat16" : "");
}

// One step, tiles that are not full, several tiles, several links of 32 tiles; groups of one feature, odd ones, groups
// wider than a warp reads at once, and so wide that tiles have few steps.
const std::vector<Case> kCases = {
    {1, 1, 4, 32, true, false, false, false},
    {3, 1, 3, 4, true, true, true, false, kFloat, kHalf},
    {2, 7, 2, 4, false, false, false, false},
    {2, 31, 3, 5, true, true, true, true},
    {1, 33, 5, 12, true, true, true, true, kHalf, kHalf},
    {2, 130, 11, 32, true, true, true, true, kFloat, kHalf},
    {1, 300, 70, 1, true, true, false, true},
    {2, 96, 1, 256, true, true, true, true},
    {1, 70, 2, 1100, true, true, true, false, kFloat, kHalf},
    {1, 45, 1, 9000, true, false, true, true, kHalf, kFloat},
    {1, 12, 2, 333, false, true, true, true},
    {2, 3333, 2, 8, true, true, true, true},
    {1, 4100, 3, 4, true, true, false, false, kHalf, kHalf},
    {1, 2048, 5, 3, true, false, true, true},
    {1, 1601, 64, 64, true, true, true, true, kFloat, kHalf},
};

struct Inputs {
  Case c;
  double eps = 1e-5;
  std::vector<float> x, weight, bias, dy;
  std::vector<uint8_t> mask, starts;
  std::vector<int64_t> count0;
  std::vector<double> mean0, var0, dmean, dvar;
};

std::vector<double> random_doubles(size_t size, uint32_t seed, bool positive = false) {
  std::vector<double> list;
  for (const float x : random_numbers(size, seed)) list.push_back(positive ? 0.2 + std::abs(x) : x);
  return list;
}

std::vector<uint8_t> random_flags(size_t size, uint32_t seed, double share) {
  std::mt19937 generator(seed);
  std::bernoulli_distribution flag(share);
  std::vector<uint8_t> list(size);
  for (uint8_t& x : list) x = flag(generator);
  return list;
}

Inputs random_inputs(const Case& c) {
  const auto seed = static_cast<uint32_t>(1000 * c.L + c.K);
  const auto elements = static_cast<size_t>(c.B * c.L * c.G * c.K), features = static_cast<size_t>(c.G * c.K),
             steps = static_cast<size_t>(c.B * c.L), groups = static_cast<size_t>(c.B * c.G);
  Inputs in;
  in.c = c;
  in.x = random_numbers(elements, seed, 1.5);
  const auto offset = random_numbers(features, seed + 1);
  for (size_t i = 0; i < elements; ++i) in.x[i] += offset[i % features];
  if (c.x_type == kHalf)
    for (float& x : in.x) x = round_to_bfloat16(x);
  in.dy = random_numbers(elements, seed + 2, 1, c.y_type);
  if (c.affine) in.weight = random_numbers(features, seed + 3, 0.3f), in.bias = random_numbers(features, seed + 4);
  if (c.mask) in.mask = random_flags(steps, seed + 5, 0.3);
  if (c.starts) in.starts = random_flags(steps, seed + 6, c.L > 1000 ? 0.002 : 0.08);
  if (c.state) {
    for (int64_t b = 0; b < c.B; ++b) in.count0.push_back(b == 1 ? 0 : 5 + 3 * b);
    in.mean0 = random_doubles(groups, seed + 7), in.var0 = random_doubles(groups, seed + 8, true);
  }
  in.dmean = random_doubles(groups, seed + 9), in.dvar = random_doubles(groups, seed + 10);
  for (size_t i = 0; i < elements; ++i)
    if (c.mask && in.mask[i / features] != 0) in.x[i] = in.dy[i] = std::numeric_limits<float>::quiet_NaN();
  return in;
}

struct Results {
  std::vector<float> y;
  std::vector<int64_t> count;
  std::vector<double> mean, var;
  std::vector<float> dx, dweight, dbias;
  std::vector<double> dmean0, dvar0;
};

TimestepNormArgs arguments(const Inputs& in) {
  TimestepNormArgs args{};
  args.B = in.c.B, args.L = in.c.L, args.G = in.c.G, args.K = in.c.K;
  args.eps = in.eps;
  return args;
}

template <class T>
T* or_null(std::vector<T>& list) {
  return list.empty() ? nullptr : list.data();
}

Results run_cpu(Inputs in) {
  const Case& c = in.c;
  const auto groups = static_cast<size_t>(c.B * c.G), runs = static_cast<size_t>(c.B * c.L * c.G);
  TimestepNormArgs args = arguments(in);
  args.x = in.x.data(), args.weight = or_null(in.weight), args.bias = or_null(in.bias);
  args.mask = reinterpret_cast<const bool*>(or_null(in.mask));
  args.starts = reinterpret_cast<const bool*>(or_null(in.starts));
  args.count0 = or_null(in.count0), args.mean0 = or_null(in.mean0), args.var0 = or_null(in.var0);
  Results r;
  r.y.resize(in.x.size()), r.dx.resize(in.x.size());
  r.count.resize(static_cast<size_t>(c.B));
  r.dweight.resize(in.weight.size()), r.dbias.resize(in.bias.size());
  for (auto* list : {&r.mean, &r.var, &r.dmean0, &r.dvar0}) list->resize(groups);
  std::vector<double> mean_BLG(runs);
  std::vector<float> rstd_BLG(runs);
  timestep_norm_forward_cpu(
      args, {r.y.data(), r.count.data(), r.mean.data(), r.var.data(), mean_BLG.data(), rstd_BLG.data(), nullptr});
  timestep_norm_backward_cpu(
      args, {mean_BLG.data(), rstd_BLG.data(), nullptr, in.dy.data(), in.dmean.data(), in.dvar.data(), r.dx.data(),
             or_null(r.dweight), or_null(r.dbias), r.dmean0.data(), r.dvar0.data()});
  return r;
}

Results run_cuda(const Inputs& in) {
  const Case& c = in.c;
  const auto groups = static_cast<size_t>(c.B * c.G), runs = static_cast<size_t>(c.B * c.L * c.G),
             steps = static_cast<size_t>(c.B * c.L);
  DeviceArray<float> x(in.x, c.x_type), dy(in.dy, c.y_type), weight(in.weight), bias(in.bias);
  DeviceArray<uint8_t> mask(in.mask), starts(in.starts);
  DeviceArray<int64_t> count0(in.count0), count(static_cast<size_t>(c.B)), count_BL(steps);
  DeviceArray<double> mean0(in.mean0), var0(in.var0), dmean(in.dmean), dvar(in.dvar);
  DeviceArray<float> y(in.x.size(), c.y_type), dx(in.x.size(), c.x_type), rstd_BLG(runs), dweight(in.weight.size()),
      dbias(in.bias.size());
  DeviceArray<double> mean(groups), var(groups), mean_BLG(runs), dmean0(groups), dvar0(groups);
  TimestepNormArgs args = arguments(in);
  args.x_type = c.x_type, args.y_type = c.y_type;
  args.x = x.numbers();
  if (c.affine) args.weight = weight.data(), args.bias = bias.data();
  if (!in.mask.empty()) args.mask = static_cast<const bool*>(mask.numbers());
  if (!in.starts.empty()) args.starts = static_cast<const bool*>(starts.numbers());
  if (!in.count0.empty()) args.count0 = count0.data(), args.mean0 = mean0.data(), args.var0 = var0.data();
  TestQueue queue;
  timestep_norm_forward_cuda(
      args, {y.numbers(), count.data(), mean.data(), var.data(), mean_BLG.data(), rstd_BLG.data(), count_BL.data()},
      queue);
  timestep_norm_backward_cuda(
      args,
      {mean_BLG.data(), rstd_BLG.data(), count_BL.data(), dy.numbers(), dmean.data(), dvar.data(), dx.numbers(),
       c.affine ? dweight.data() : nullptr, c.affine ? dbias.data() : nullptr, dmean0.data(), dvar0.data()},
      queue);
  queue.wait();
  return {y.values(),       count.values(), mean.values(),   var.values(),  dx.values(),
          dweight.values(), dbias.values(), dmean0.values(), dvar0.values()};
}

void expect_close(const Results& got, const Results& expected, const Case& c) {
  EXPECT_EQ(got.count, expected.count);
  EXPECT_TRUE(close(got.y, expected.y, tolerance(c.y_type, 2e-6))) << "y";
  EXPECT_TRUE(close(got.mean, expected.mean, 1e-12)) << "mean";
  EXPECT_TRUE(close(got.var, expected.var, 1e-6)) << "var";
  EXPECT_TRUE(close(got.dx, expected.dx, tolerance(c.x_type, 5e-6))) << "dx";
  EXPECT_TRUE(close(got.dweight, expected.dweight, 1e-5)) << "dweight";
  EXPECT_TRUE(close(got.dbias, expected.dbias, 1e-5)) << "dbias";
  EXPECT_TRUE(close(got.dmean0, expected.dmean0, 1e-5)) << "dmean0";
  EXPECT_TRUE(close(got.dvar0, expected.dvar0, 1e-5)) << "dvar0";
}

void expect_same_bits(const Results& a, const Results& b) {
  EXPECT_EQ(a.y, b.y);
  EXPECT_EQ(a.count, b.count);
  EXPECT_EQ(a.mean, b.mean);
  EXPECT_EQ(a.var, b.var);
  EXPECT_EQ(a.dx, b.dx);
  EXPECT_EQ(a.dweight, b.dweight);
  EXPECT_EQ(a.dbias, b.dbias);
  EXPECT_EQ(a.dmean0, b.dmean0);
  EXPECT_EQ(a.dvar0, b.dvar0);
}

TEST(TimestepNormCuda, AgreesWithTheCpu) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Inputs in = random_inputs(c);
    expect_close(run_cuda(in), run_cpu(in), c);
  }
}

TEST(TimestepNormCuda, LongSequencesGiveTheSameBitsEveryTime) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Case c{2, 5000, 16, 32, true, true, true, true, kFloat, kHalf};
  const Inputs in = random_inputs(c);
  const Results first = run_cuda(in);
  expect_close(first, run_cpu(in), c);
  for (int i = 0; i < 3; ++i) expect_same_bits(run_cuda(in), first);
}

TEST(TimestepNormCuda, DocumentsDoNotTouchEachOther) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  constexpr int64_t kStart = 1500, kSize = 12;
  Inputs in = random_inputs({1, 2100, 3, 4, true, true, false, false});
  in.starts.assign(2100, 0);
  in.starts[kStart] = 1;
  const Results base = run_cuda(in);
  expect_close(base, run_cpu(in), in.c);
  const auto expect_equal = [](const std::vector<float>& a, const std::vector<float>& b, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      ASSERT_EQ(a[static_cast<size_t>(i)], b[static_cast<size_t>(i)]) << "element " << i;
  };

  Inputs other_first = in;
  for (int64_t i = 0; i < kStart * kSize; ++i) {
    other_first.x[static_cast<size_t>(i)] = 1e6f * in.x[static_cast<size_t>(i)] + 3e7f;
    other_first.dy[static_cast<size_t>(i)] *= -7;
  }
  other_first.x[kStart * kSize - 5] = std::numeric_limits<float>::quiet_NaN();
  const Results second = run_cuda(other_first);
  expect_equal(second.y, base.y, kStart * kSize, 2100 * kSize);
  expect_equal(second.dx, base.dx, kStart * kSize, 2100 * kSize);
  EXPECT_EQ(second.mean, base.mean);
  EXPECT_EQ(second.var, base.var);

  Inputs other_second = in;
  for (int64_t i = kStart * kSize; i < 2100 * kSize; ++i) other_second.x[static_cast<size_t>(i)] *= 100;
  other_second.dmean[1] = std::nan("");
  const Results first = run_cuda(other_second);
  expect_equal(first.y, base.y, 0, kStart * kSize);
  expect_equal(first.dx, base.dx, 0, kStart * kSize);
  EXPECT_EQ(first.dmean0, base.dmean0);
  EXPECT_EQ(first.dvar0, base.dvar0);
}

TEST(TimestepNormCuda, AHugeMeanCostsNoDigits) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  Inputs in = random_inputs({1, 200, 4, 16, true, false, false, true});
  std::mt19937 generator(3);
  std::uniform_int_distribution<int> fraction(-16, 16);
  for (size_t i = in.x.size() / 4; i < in.x.size(); ++i)  // ordinary numbers first, then the jump
    in.x[i] = 16384.0f + static_cast<float>(fraction(generator)) / 512;
  Results got = run_cuda(in);
  const Results expected = run_cpu(in);
  EXPECT_TRUE(close(got.y, expected.y, 2e-6));
  EXPECT_TRUE(close(got.dx, expected.dx, 1e-5));
  EXPECT_TRUE(close(got.dweight, expected.dweight, 1e-5));
}

TEST(TimestepNormCuda, StatisticsStillMoveAfterVeryManySteps) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const int64_t count : {int64_t{1000000000}, (int64_t{1} << 31) - 2, int64_t{1} << 40}) {
    Inputs in = random_inputs({1, 70, 2, 4, false, true, false, false});
    for (float& x : in.x) x = 1e4f * x + 3e5f;
    in.count0 = {count};
    const Results got = run_cuda(in), expected = run_cpu(in);
    EXPECT_EQ(got.count, expected.count);
    for (size_t g = 0; g < 2; ++g) {
      const double mean = expected.mean[g] - in.mean0[g], var = expected.var[g] - in.var0[g];
      EXPECT_NE(mean, 0);
      EXPECT_NEAR(got.mean[g] - in.mean0[g], mean, 1e-3 * std::abs(mean) + 2e-15);
      EXPECT_NEAR(got.var[g] - in.var0[g], var, 1e-3 * std::abs(var) + 2e-14);
    }
  }
}

TEST(TimestepNormCuda, WithoutAValidStepTheStatePassesThrough) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const int64_t count : {0, 5}) {
    for (const int64_t start : {-1, 0, 40, 99}) {
      SCOPED_TRACE(::testing::Message() << "count " << count << " start " << start);
      Inputs in = random_inputs({1, 100, 2, 4, true, true, true, false});
      std::fill(in.mask.begin(), in.mask.end(), 1);
      in.count0 = {count};
      if (start >= 0) in.starts.assign(100, 0), in.starts[static_cast<size_t>(start)] = 1;
      const Results got = run_cuda(in), expected = run_cpu(in);
      EXPECT_EQ(got.mean, expected.mean);
      EXPECT_EQ(got.var, expected.var);
      expect_close(got, expected, in.c);
    }
  }
}

TEST(TimestepNormCuda, AStateWithCountZeroMayHoldAnything) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  Inputs in = random_inputs({2, 60, 2, 4, true, true, true, false}), fresh = in;
  in.count0.assign(2, 0), in.mean0.assign(4, std::nan("")), in.var0.assign(4, std::nan(""));
  fresh.count0.clear(), fresh.mean0.clear(), fresh.var0.clear();
  expect_same_bits(run_cuda(in), run_cuda(fresh));
}

TEST(TimestepNormCuda, NothingForTheBackwardUnlessWanted) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  Inputs in = random_inputs({1, 40, 2, 4, false, false, false, false});
  DeviceArray<float> x(in.x), y(in.x.size());
  DeviceArray<int64_t> count(1);
  DeviceArray<double> mean(2), var(2);
  TimestepNormArgs args = arguments(in);
  args.x = x.numbers();
  TestQueue queue;
  timestep_norm_forward_cuda(args, {y.numbers(), count.data(), mean.data(), var.data(), nullptr, nullptr, nullptr},
                             queue);
  EXPECT_TRUE(close(y.values(), run_cpu(in).y, 2e-6));
}

}  // namespace
}  // namespace megalodon::ops::timestep_norm_test
