#include <memory>

#include "ops/cuda_testing.h"
#include "ops/fixed_matrix/fixed_matrix_kernel.h"

namespace megalodon::ops::fixed_matrix_cuda_test {
namespace {

using namespace testing;

constexpr FixedType kTypes[] = {FixedType::kFloat32, FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4};
constexpr const char* kNames[] = {"float32", "bfloat16", "q8", "q4"};

/// A matrix as it is stored, in both memories.
class Matrix {
 public:
  Matrix(FixedType type, int64_t O, int64_t I, const std::vector<float>& w)
      : view_{type, O, I, nullptr}, bytes_(static_cast<size_t>(view_.blocks() * view_.block_bytes())) {
    EXPECT_TRUE(fixed_store_cpu(w.data(), view_, bytes_.data()));
    on_device_ = std::make_unique<DeviceArray<uint8_t>>(bytes_);
  }
  FixedView on_cpu() const { return {view_.type, view_.O, view_.I, bytes_.data()}; }
  FixedView on_gpu() const { return {view_.type, view_.O, view_.I, on_device_->data()}; }
  std::vector<float> restored() const {
    std::vector<float> w(static_cast<size_t>(view_.O * view_.I));
    fixed_restore_cpu(on_cpu(), w.data());
    return w;
  }

 private:
  FixedView view_;
  std::vector<uint8_t> bytes_;
  std::unique_ptr<DeviceArray<uint8_t>> on_device_;
};

/// What there is besides W; bias and addend may be empty.
struct Inputs {
  int64_t M;
  std::vector<float> x, bias = {}, addend = {};
};

std::vector<float> on_gpu(const Matrix& w, const Inputs& in) {
  TestQueue queue;
  DeviceArray<float> x(in.x), bias(in.bias), addend(in.addend), y(static_cast<size_t>(in.M * w.on_gpu().O));
  fixed_product_cuda({w.on_gpu(), in.M, x.data(), in.bias.empty() ? nullptr : bias.data(),
                      in.addend.empty() ? nullptr : addend.data(), y.data()},
                     queue);
  queue.wait();
  return y.values();
}

std::vector<float> on_cpu(const Matrix& w, const Inputs& in) {
  std::vector<float> y(static_cast<size_t>(in.M * w.on_cpu().O));
  fixed_product_cpu({w.on_cpu(), in.M, in.x.data(), in.bias.empty() ? nullptr : in.bias.data(),
                     in.addend.empty() ? nullptr : in.addend.data(), y.data()});
  return y;
}

std::vector<double> in_float64(const std::vector<float>& w, const Inputs& in) {
  const size_t M = static_cast<size_t>(in.M), I = in.x.size() / M, O = w.size() / I;
  std::vector<double> y(M * O);
  for (size_t m = 0; m < M; ++m)
    for (size_t o = 0; o < O; ++o) {
      double& sum = y[m * O + o];
      if (!in.bias.empty()) sum += in.bias[o];
      if (!in.addend.empty()) sum += in.addend[m * O + o];
      for (size_t i = 0; i < I; ++i) sum += double{in.x[m * I + i]} * w[o * I + i];
    }
  return y;
}

std::vector<float> rows(const std::vector<float>& list, int64_t first, int64_t count, int64_t width) {
  return {list.begin() + first * width, list.begin() + (first + count) * width};
}

struct Shape {
  int64_t O, I;
};

std::vector<float> random_weights(const Shape& shape) {
  return random_numbers(static_cast<size_t>(shape.O * shape.I), 1);
}

/// Without bias and addend, with one of them, with both.
Inputs random_inputs(int64_t M, const Shape& shape, int64_t parts) {
  const auto size = [](int64_t a, int64_t b) { return static_cast<size_t>(a * b); };
  return {M, random_numbers(size(M, shape.I), 2), random_numbers(parts % 2 == 1 ? size(1, shape.O) : 0, 3),
          random_numbers(parts / 2 % 2 == 1 ? size(M, shape.O) : 0, 4)};
}

TEST(FixedMatrixCuda, FewRowsAgreeWithTheCpu) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  for (const FixedType type : kTypes)
    for (const Shape& shape : {Shape{1, 1}, {65, 33}, {40, 200}, {20, 2500}}) {
      const Matrix w(type, shape.O, shape.I, random_weights(shape));
      for (const int64_t M : {0, 1, 2, 3, 5, 9, 32}) {
        SCOPED_TRACE(::testing::Message()
                     << kNames[static_cast<int>(type)] << ", " << M << " rows, " << shape.O << " x " << shape.I);
        const Inputs in = random_inputs(M, shape, M);
        EXPECT_TRUE(close(on_gpu(w, in), on_cpu(w, in), 3e-6));  // sums in another order
      }
    }
}

/// Integers that every type and the integers of x hold as they are: in each 32 inputs the largest and the least that
/// there are for a step of 1.
std::vector<float> integers(FixedType type, int64_t height, int64_t width, std::mt19937& generator) {
  const int least = type == FixedType::kQ4 ? -8 : -127, most = type == FixedType::kQ4 ? 7 : 127;
  std::uniform_int_distribution<int> draw(least, most);
  std::vector<float> list;
  for (int64_t row = 0; row < height; ++row)
    for (int64_t i = 0; i < width; ++i)
      list.push_back(static_cast<float>(i % 32 == 0 ? least : i % 32 == 1 ? most : draw(generator)));
  return list;
}

// All products and sums are exact, so that one misplaced or misread weight is seen, in whatever order they are.
TEST(FixedMatrixCuda, IntegersAreMultipliedExactly) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  std::mt19937 generator(5);
  for (const FixedType type : kTypes)
    for (const Shape& shape : {Shape{130, 2}, {16, 64}, {70, 113}, {33, 500}}) {
      const std::vector<float> weights = integers(type, shape.O, shape.I, generator);
      const Matrix w(type, shape.O, shape.I, weights);
      for (const int64_t M : {1, 3, 20, 33}) {
        SCOPED_TRACE(::testing::Message()
                     << kNames[static_cast<int>(type)] << ", " << M << " rows, " << shape.O << " x " << shape.I);
        const Inputs in = {M, integers(FixedType::kQ8, M, shape.I, generator),
                           integers(FixedType::kQ8, 1, shape.O, generator),
                           integers(FixedType::kQ8, M, shape.O, generator)};
        const std::vector<double> expected = in_float64(weights, in);
        EXPECT_EQ(on_gpu(w, in), std::vector<float>(expected.begin(), expected.end()));
      }
    }
}

// A weight alone in its row, and a row of equal ones, show the integers of x and their sum.
TEST(FixedMatrixCuda, IntegersOfXAreTheCpus) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  constexpr int64_t kInputs = 32, kOutputs = kInputs + 1;
  std::vector<float> weights(kOutputs * kInputs, 0);
  for (size_t i = 0; i < kInputs; ++i) weights[i * (kInputs + 1)] = 127, weights[kInputs * kInputs + i] = 3;
  std::vector<float> x;
  for (const float size : {1.0F, 300.0F, 1e-30F, 1e-36F, 1e-42F, 1e30F, 0.0F})
    for (const float number : random_numbers(kInputs, 6, size)) x.push_back(number);
  for (const float largest : {127.0F, 1.0F, 0.3F, 77.7F, 1e-5F})  // halfway between two integers, or nearly so
    for (int i = 0; i < kInputs; ++i)
      x.push_back(i == 0 ? largest : (static_cast<float>(i - 16) + 0.5F) * (largest / 127));
  const Inputs in = {static_cast<int64_t>(x.size()) / kInputs, x};
  for (const FixedType type : {FixedType::kQ8, FixedType::kQ4}) {
    const Matrix w(type, kOutputs, kInputs, weights);
    EXPECT_EQ(on_gpu(w, in), on_cpu(w, in)) << kNames[static_cast<int>(type)];
  }
}

TEST(FixedMatrixCuda, ARowsResultDoesNotDependOnTheOtherRows) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Shape shape = {20, 330};
  const Inputs all = random_inputs(kFewRows, shape, 3);
  for (const FixedType type : kTypes) {
    const Matrix w(type, shape.O, shape.I, random_weights(shape));
    const std::vector<float> expected = on_gpu(w, all);
    for (const int64_t M : {1, 2, 3, 4, 5, 8, 9, 16, 21, 31}) {
      const int64_t first = kFewRows - M;
      const Inputs last = {M, rows(all.x, first, M, shape.I), all.bias, rows(all.addend, first, M, shape.O)};
      EXPECT_EQ(on_gpu(w, last), rows(expected, first, M, shape.O)) << kNames[static_cast<int>(type)] << ", " << M;
    }
  }
}

TEST(FixedMatrixCuda, ManyRowsAreMultipliedAsTheHeaderSays) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const auto rounded = [](std::vector<float> list) {
    for (float& number : list) number = round_to_bfloat16(number);
    return list;
  };
  for (const FixedType type : kTypes)
    for (const Shape& shape : {Shape{1, 1}, {65, 33}, {100, 200}, {20, 70}})
      for (const int64_t M : {33, 130}) {
        SCOPED_TRACE(::testing::Message()
                     << kNames[static_cast<int>(type)] << ", " << M << " rows, " << shape.O << " x " << shape.I);
        const Matrix w(type, shape.O, shape.I, random_weights(shape));
        const Inputs in = random_inputs(M, shape, M);
        const bool wide = type == FixedType::kFloat32;
        const Inputs multiplied = {M, wide ? in.x : rounded(in.x), in.bias, in.addend};
        const std::vector<float> weights = wide ? w.restored() : rounded(w.restored());
        EXPECT_TRUE(close(on_gpu(w, in), in_float64(weights, multiplied), 1e-6));
      }
}

TEST(FixedMatrixCuda, ManyRowsTakeLargeMatricesInTiles) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  std::mt19937 generator(7);
  const int64_t M = 33, O = (1 << 16) + 70, I = 64;  // a tile is 2^16 rows
  const Matrix w(FixedType::kFloat32, O, I, integers(FixedType::kQ4, O, I, generator));
  const Inputs in = {M, integers(FixedType::kQ4, M, I, generator), integers(FixedType::kQ4, 1, O, generator),
                     integers(FixedType::kQ4, M, O, generator)};
  EXPECT_TRUE(on_gpu(w, in) == on_cpu(w, in));  // exact; two million numbers are not to be printed
}

TEST(FixedMatrixCuda, NotANumberStaysInItsRow) {
  if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  const Shape shape = {20, 50};
  for (const FixedType type : kTypes)
    for (const int64_t M : {3, 40})
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        SCOPED_TRACE(::testing::Message() << kNames[static_cast<int>(type)] << ", " << M << " rows, " << bad);
        const Matrix w(type, shape.O, shape.I, random_weights(shape));
        Inputs in = random_inputs(M, shape, 0);
        const std::vector<float> good = on_gpu(w, in);
        in.x[static_cast<size_t>(shape.I) + 37] = bad;
        const std::vector<float> y = on_gpu(w, in);
        for (const float number : rows(y, 1, 1, shape.O)) EXPECT_FALSE(std::isfinite(number));
        EXPECT_EQ(rows(y, 0, 1, shape.O), rows(good, 0, 1, shape.O));
        EXPECT_EQ(rows(y, 2, M - 2, shape.O), rows(good, 2, M - 2, shape.O));
      }
}

}  // namespace
}  // namespace megalodon::ops::fixed_matrix_cuda_test
