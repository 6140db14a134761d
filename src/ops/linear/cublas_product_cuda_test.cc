// Products against a loop in float64: every transposition, type and extra, sizes and strides that cuBLASLt likes and
// that it does not.
#include "ops/linear/cublas_product.h"

#include <stdexcept>
#include <string>

#include "ops/cuda_testing.h"

namespace megalodon::ops::cublas_product_test {
namespace {

using namespace testing;

constexpr NumberType kFloat = NumberType::kFloat32, kHalf = NumberType::kBfloat16;

struct Case {
  int64_t batch, M, N, K;
  int64_t padding = 0;  // elements between the rows
  NumberType in = kFloat, out = kFloat;
  bool transpose_a = false, transpose_b = false, bias = false;
  enum Addend { kNone, kOther, kItself } addend = kNone;
  float alpha = 1;
};

std::string describe(const Case& c) {
  const auto flag = [](const char* name, bool on) { return on ? std::string(name) : std::string(); };
  return std::to_string(c.batch) + " x " + std::to_string(c.M) + " " + std::to_string(c.N) + " " + std::to_string(c.K) +
         " padding " + std::to_string(c.padding) + flag(" in bf16", c.in == kHalf) + flag(" out bf16", c.out == kHalf) +
         flag(" a transposed", c.transpose_a) + flag(" b transposed", c.transpose_b) + flag(" bias", c.bias) +
         flag(" + c", c.addend == Case::kOther) + flag(" += ", c.addend == Case::kItself);
}

/// Rows of `columns` numbers on the host, in the memory layout of the device.
struct Rows {
  int64_t stride, batch_stride;
  std::vector<float> values;
  Rows(int64_t batch, int64_t rows, int64_t columns, int64_t padding, uint32_t seed, NumberType type)
      : stride(columns + padding), batch_stride(rows * stride + padding) {
    values = random_numbers(static_cast<size_t>(batch * batch_stride), seed, 1, type);
  }
  double at(int64_t n, int64_t row, int64_t column) const {
    return values[static_cast<size_t>(n * batch_stride + row * stride + column)];
  }
};

struct Problem {
  Case c;
  Rows a, b, before, addend;
  std::vector<float> bias;

  explicit Problem(const Case& of)
      : c(of),
        a(c.batch, c.transpose_a ? c.K : c.M, c.transpose_a ? c.M : c.K, c.padding, 1, c.in),
        b(c.batch, c.transpose_b ? c.N : c.K, c.transpose_b ? c.K : c.N, c.padding, 2, c.in),
        before(c.batch, c.M, c.N, c.padding, 3, c.out),
        addend(c.batch, c.M, c.N, 2 * c.padding, 4, c.out),
        bias(random_numbers(static_cast<size_t>(c.N), 5, 1, c.out)) {}

  /// The memory of d afterwards: what lies between the rows stays.
  std::vector<double> expected() const {
    std::vector<double> d(before.values.begin(), before.values.end());
    for (int64_t n = 0; n < c.batch; ++n)
      for (int64_t i = 0; i < c.M; ++i)
        for (int64_t j = 0; j < c.N; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < c.K; ++k)
            sum += (c.transpose_a ? a.at(n, k, i) : a.at(n, i, k)) * (c.transpose_b ? b.at(n, j, k) : b.at(n, k, j));
          sum *= c.alpha;
          if (c.addend == Case::kOther) sum += 0.5 * addend.at(n, i, j);
          if (c.addend == Case::kItself) sum += 0.5 * before.at(n, i, j);
          if (c.bias) sum += bias[static_cast<size_t>(j)];
          d[static_cast<size_t>(n * before.batch_stride + i * before.stride + j)] = sum;
        }
    return d;
  }
};

void expect_right(const Case& c, bool fast) {
  SCOPED_TRACE(describe(c));
  const Problem problem(c);
  TestQueue queue;
  DeviceArray<float> a(problem.a.values, c.in), b(problem.b.values, c.in), d(problem.before.values, c.out);
  DeviceArray<float> addend(problem.addend.values, c.out), bias(problem.bias, c.out);
  CudaProduct p;
  p.batch = c.batch, p.M = c.M, p.N = c.N, p.K = c.K;
  p.a = {a.numbers(), c.in, problem.a.stride, c.transpose_a, problem.a.batch_stride};
  p.b = {b.numbers(), c.in, problem.b.stride, c.transpose_b, problem.b.batch_stride};
  p.d = d.numbers(), p.d_type = c.out, p.d_stride = problem.before.stride,
  p.d_batch_stride = problem.before.batch_stride;
  if (c.addend == Case::kOther) {
    p.c = addend.numbers(), p.c_stride = problem.addend.stride, p.c_batch_stride = problem.addend.batch_stride;
  } else if (c.addend == Case::kItself) {
    p.c = p.d, p.c_stride = p.d_stride, p.c_batch_stride = p.d_batch_stride;
  }
  if (c.bias) p.bias = bias.numbers();
  p.alpha = c.alpha, p.beta = 0.5f;
  cuda_product(p, queue);
  // TF32 would be off by 2^-11 of a factor.
  EXPECT_TRUE(close(d.values(), problem.expected(), tolerance(c.out, 2e-6)));
  EXPECT_TRUE(!fast || cuda_product_is_fast(p));
}

void expect_all_right(const Case& sizes, bool fast) {
  for (const auto& [in, out] : {std::pair{kFloat, kFloat}, {kHalf, kFloat}, {kHalf, kHalf}})
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const bool bias : {false, true})
          for (const Case::Addend addend : {Case::kNone, Case::kOther, Case::kItself}) {
            Case c = sizes;
            c.in = in, c.out = out, c.transpose_a = transpose_a, c.transpose_b = transpose_b;
            c.bias = bias, c.addend = addend;
            c.alpha = bias ? 1.0f : 0.25f;
            expect_right(c, fast && addend == Case::kNone);
          }
}

TEST(CublasProduct, OneMatrix) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  expect_all_right({1, 64, 96, 128}, true);
}

TEST(CublasProduct, ABatchWithGaps) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  expect_all_right({3, 40, 24, 56, 8}, false);
}

TEST(CublasProduct, OddSizesAndStrides) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  expect_all_right({2, 33, 17, 45, 0}, false);
  expect_all_right({1, 19, 31, 7, 3}, false);
  expect_all_right({2, 1, 5, 9, 1}, false);
}

TEST(CublasProduct, OddAddresses) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  constexpr int64_t kSize = 32;
  for (const NumberType type : {kFloat, kHalf}) {
    const size_t element = type == kHalf ? 2 : 4;
    const auto a = random_numbers(kSize * kSize + 1, 1, 1, type), b = random_numbers(kSize * kSize + 1, 2, 1, type);
    const auto bias = random_numbers(kSize + 1, 3, 1, type);
    TestQueue queue;
    DeviceArray<float> on_a(a, type), on_b(b, type), on_bias(bias, type), d(kSize * kSize + 1, type);
    const auto second = [&](DeviceArray<float>& list) { return static_cast<uint8_t*>(list.numbers()) + element; };
    CudaProduct p;
    p.M = p.N = p.K = kSize;
    p.a = {second(on_a), type, kSize}, p.b = {second(on_b), type, kSize};
    p.d = second(d), p.d_type = type, p.d_stride = kSize, p.bias = second(on_bias);
    cuda_product(p, queue);
    std::vector<double> expected;
    for (int64_t i = 0; i < kSize; ++i)
      for (int64_t j = 0; j < kSize; ++j) {
        double sum = bias[static_cast<size_t>(j + 1)];
        for (int64_t k = 0; k < kSize; ++k)
          sum += double{a[static_cast<size_t>(i * kSize + k + 1)]} * b[static_cast<size_t>(k * kSize + j + 1)];
        expected.push_back(sum);
      }
    auto got = d.values();
    got.erase(got.begin());
    EXPECT_TRUE(close(got, expected, tolerance(type, 2e-6)));
  }
}

TEST(CublasProduct, NothingToSumOver) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  expect_right({2, 5, 7, 0, 0, kFloat, kFloat, false, false, true, Case::kOther}, false);
  expect_right({1, 5, 7, 0, 0, kHalf, kHalf, false, false, false, Case::kItself}, false);
}

TEST(CublasProduct, SplitSumsAreFloat32AndRepeatBitForBit) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  constexpr int64_t kSide = 64, kLong = 1 << 16;  // so long that splitting it pays
  const auto a = random_numbers(kSide * kLong, 1, 1, kHalf), b = random_numbers(kSide * kLong, 2, 1, kHalf);
  DeviceArray<float> on_a(a, kHalf), on_b(b, kHalf);
  std::vector<float> first;
  for (int run = 0; run < 3; ++run) {
    TestQueue queue;
    DeviceArray<float> d(kSide * kSide);
    CudaProduct p;
    p.M = p.N = kSide, p.K = kLong;
    p.a = {on_a.numbers(), kHalf, kLong}, p.b = {on_b.numbers(), kHalf, kLong, true};
    p.d = d.numbers(), p.d_stride = kSide;
    cuda_product(p, queue);
    const auto got = d.values();
    if (run == 0) {
      first = got;
      std::vector<double> expected;
      for (int64_t i = 0; i < kSide; ++i)
        for (int64_t j = 0; j < kSide; ++j) {
          double sum = 0;
          for (int64_t k = 0; k < kLong; ++k)
            sum += double{a[static_cast<size_t>(i * kLong + k)]} * b[static_cast<size_t>(j * kLong + k)];
          expected.push_back(sum);
        }
      EXPECT_TRUE(close(got, expected, 1e-4));  // 2^16 additions, the tensor cores' own rounding
    }
    EXPECT_EQ(got, first);
  }
}

TEST(CublasProduct, WrongTypesAreRefused) {
  CudaProduct p;
  p.M = p.N = p.K = 4, p.d_type = kHalf;
  try {
    if (has_gpu()) {
      TestQueue queue;
      cuda_product(p, queue);
    } else {
      cuda_product_is_fast(p);
    }
    ADD_FAILURE() << "no error";
  } catch (const std::runtime_error& error) {
    EXPECT_NE(std::string(error.what()).find("no product of these types: 1 x [4,4] [4,4], a float32"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace megalodon::ops::cublas_product_test
