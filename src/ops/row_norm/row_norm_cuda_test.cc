// Against the CPU kernel, which reads float32 and writes it.
#include <ostream>

#include "ops/cuda_testing.h"
#include "ops/row_norm/row_norm_kernel.h"

namespace megalodon::ops::row_norm_test {
namespace {

using namespace testing;

constexpr auto kFloat = NumberType::kFloat32;
constexpr auto kHalf = NumberType::kBfloat16;

struct Case {
  int64_t rows, size;
  bool centered, weight, bias;
  NumberType x_type = kFloat, y_type = kFloat;
  float scale = 1, offset = 0;
};

std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << (c.centered ? "layer_norm " : "rms_norm ") << c.rows << 'x' << c.size << (c.weight ? " weight" : "")
             << (c.bias ? " bias" : "") << (c.x_type == kHalf ? " x bfloat16" : "")
             << (c.y_type == kHalf ? " y bfloat16" : "") << " offset " << c.offset;
}

// Every way of holding a row: parts of a warp, a warp, a block, too long; four numbers at a time and one; a last block
// that is not full; more rows than the blocks of the backward take at once.
const std::vector<Case> kCases = {
    {1, 4, false, true, false},
    {3, 1, true, true, true},
    {37, 5, true, true, true, kFloat, kHalf},
    {513, 12, false, false, false, kHalf, kHalf},
    {70, 64, false, true, false, kFloat, kHalf},
    {29, 128, true, true, true, kHalf, kFloat},
    {19, 127, true, true, true},
    {9, 129, false, true, false, kHalf, kHalf},
    {21, 256, true, true, true, kFloat, kHalf},
    {10, 508, true, false, true, kHalf, kHalf},
    {600, 516, false, true, false, kFloat, kHalf},
    {7, 1024, true, true, true},
    {7, 2048, true, true, true, kFloat, kHalf},
    {5, 3000, true, true, false, kHalf, kHalf},
    {6, 4096, false, true, false, kFloat, kHalf},
    {6, 4100, true, true, true},
    {1200, 4097, true, true, true, kFloat, kHalf},
    {5, 9000, false, true, false, kHalf, kFloat},
    {30000, 64, false, true, false},
    {9000, 20, true, true, true, kHalf, kHalf},
    {50, 96, true, true, true, kFloat, kFloat, 1e-3f, 100},
};

struct Results {
  std::vector<float> y, dx, dweight, dbias;
};

struct Inputs {
  Case c;
  std::vector<float> x, weight, bias, dy;
};

Inputs random_inputs(const Case& c) {
  const auto elements = static_cast<size_t>(c.rows * c.size), features = static_cast<size_t>(c.size);
  const auto seed = static_cast<uint32_t>(elements);
  Inputs in{c, random_numbers(elements, seed, c.scale), {}, {}, random_numbers(elements, seed + 1, 1, c.y_type)};
  for (float& x : in.x) {
    x += c.offset;
    if (c.x_type == kHalf) x = round_to_bfloat16(x);
  }
  if (c.weight) in.weight = random_numbers(features, seed + 2, 0.3f);
  if (c.bias) in.bias = random_numbers(features, seed + 3);
  return in;
}

RowNormArgs arguments(const Case& c) {
  RowNormArgs args{};
  args.rows = c.rows, args.size = c.size;
  args.centered = c.centered;
  args.eps = 1e-5;
  return args;
}

template <class T>
T* or_null(std::vector<T>& list) {
  return list.empty() ? nullptr : list.data();
}

Results run_cpu(Inputs in) {
  RowNormArgs args = arguments(in.c);
  args.x = in.x.data(), args.weight = or_null(in.weight), args.bias = or_null(in.bias);
  Results r;
  r.y.resize(in.x.size()), r.dx.resize(in.x.size());
  r.dweight.resize(in.weight.size()), r.dbias.resize(in.bias.size());
  row_norm_forward_cpu(args, {r.y.data()});
  row_norm_backward_cpu(args, {in.dy.data(), r.dx.data(), or_null(r.dweight), or_null(r.dbias)});
  return r;
}

Results run_cuda(const Inputs& in) {
  const Case& c = in.c;
  DeviceArray<float> x(in.x, c.x_type), dy(in.dy, c.y_type), weight(in.weight), bias(in.bias);
  DeviceArray<float> y(in.x.size(), c.y_type), dx(in.x.size(), c.x_type), dweight(in.weight.size()),
      dbias(in.bias.size());
  RowNormArgs args = arguments(c);
  args.x_type = c.x_type, args.y_type = c.y_type;
  args.x = x.numbers();
  args.weight = c.weight ? weight.data() : nullptr, args.bias = c.bias ? bias.data() : nullptr;
  TestQueue queue;
  row_norm_forward_cuda(args, {y.numbers()}, queue);
  row_norm_backward_cuda(
      args, {dy.numbers(), dx.numbers(), c.weight ? dweight.data() : nullptr, c.bias ? dbias.data() : nullptr}, queue);
  queue.wait();
  return {y.values(), dx.values(), dweight.values(), dbias.values()};
}

TEST(RowNormCuda, AgreesWithTheCpu) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const Case& c : kCases) {
    SCOPED_TRACE(::testing::PrintToString(c));
    const Inputs in = random_inputs(c);
    const Results got = run_cuda(in), expected = run_cpu(in);
    EXPECT_TRUE(close(got.y, expected.y, tolerance(c.y_type, 1e-6))) << "y";
    // Where dx is a difference that all but vanishes (rows of one number) the rounding of its terms remains.
    if (c.size > 1) {
      EXPECT_TRUE(close(got.dx, expected.dx, tolerance(c.x_type, 2e-6))) << "dx";
    }
    EXPECT_TRUE(close(got.dweight, expected.dweight, 1e-5)) << "dweight";
    EXPECT_TRUE(close(got.dbias, expected.dbias, 1e-5)) << "dbias";
  }
}

TEST(RowNormCuda, AHugeMeanCostsNoDigits) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  Inputs in = random_inputs({30, 40, true, false, false}), small = in;
  for (size_t i = 0; i < in.x.size(); ++i) {
    small.x[i] = std::round(4 * in.x[i]) / 512;
    in.x[i] = small.x[i] + 16384;  // exact in float32
  }
  const Results got = run_cuda(in), expected = run_cpu(small);
  EXPECT_TRUE(close(got.y, expected.y, 1e-6));
  EXPECT_TRUE(close(got.dx, expected.dx, 2e-6));
}

TEST(RowNormCuda, GivesTheSameBitsEveryTime) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Inputs in = random_inputs({20000, 64, true, true, true, kFloat, kHalf});
  const Results first = run_cuda(in), second = run_cuda(in);
  EXPECT_EQ(first.y, second.y);
  EXPECT_EQ(first.dx, second.dx);
  EXPECT_EQ(first.dweight, second.dweight);
  EXPECT_EQ(first.dbias, second.dbias);
}

TEST(RowNormCuda, NoRowsGiveNoGradient) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Results got = run_cuda(random_inputs({0, 40, true, true, true}));
  EXPECT_EQ(got.dweight, std::vector<float>(40, 0));
  EXPECT_EQ(got.dbias, std::vector<float>(40, 0));
}

}  // namespace
}  // namespace megalodon::ops::row_norm_test
