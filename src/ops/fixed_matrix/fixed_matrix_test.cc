#include "ops/fixed_matrix/fixed_matrix.h"

#include <cmath>
#include <cstring>
#include <map>

#include "base/check.h"
#include "ops/testing.h"

namespace megalodon::ops::fixed_matrix_test {
namespace {

using testing::close;

constexpr FixedType kTypes[] = {FixedType::kFloat32, FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4};
constexpr int64_t kGroup = 32;

bool in_codes(FixedType type) {
  return type == FixedType::kQ8 || type == FixedType::kQ4;
}

/// [rows, groups, 32] of [rows, I], filled up with zeros.
Tensor in_groups(const Tensor& t) {
  const int64_t rest = (kGroup - t.size(1) % kGroup) % kGroup;
  return torch::constant_pad_nd(t, {0, rest}).view({t.size(0), (t.size(1) + rest) / kGroup, kGroup});
}
/// For every element, one number of its group of 32.
Tensor of_group(const Tensor& numbers, int64_t inputs) {
  return numbers.unsqueeze(2)
      .expand({-1, -1, kGroup})
      .reshape({numbers.size(0), numbers.size(1) * kGroup})
      .narrow(1, 0, inputs);
}

struct Shape {
  int64_t O, I;
};
const std::vector<Shape> kShapes = {{1, 1}, {3, 5}, {16, 64}, {7, 31}, {64, 16}, {65, 33}, {100, 200}, {193, 97}};

TEST(FixedMatrix, StoresTheNumbersOfTheReference) {
  for (const FixedType type : kTypes)
    for (const auto& [O, I] : kShapes) {
      SCOPED_TRACE(c10::str(name_of(type), " ", O, " x ", I));
      const Tensor w = torch::randn({O, I}) * torch::randn({O, 1}).exp();
      EXPECT_TRUE(close(restore_matrix(fix_matrix(w, type)), ref::restore_matrix(w, type), 1e-7));
      EXPECT_TRUE(
          torch::equal(restore_matrix(fix_matrix(w.t().contiguous().t(), type)), restore_matrix(fix_matrix(w, type))));
    }
}

TEST(FixedMatrix, ABfloat16SourceIsStoredAsItsNumbersInFloat32) {
  for (const FixedType type : kTypes)
    for (const auto& [O, I] : kShapes) {
      SCOPED_TRACE(c10::str(name_of(type), " ", O, " x ", I));
      const Tensor w = torch::randn({O, I}).to(torch::kBFloat16);
      EXPECT_TRUE(torch::equal(fix_matrix(w, type).bytes(), fix_matrix(w.to(torch::kFloat32), type).bytes()));
      EXPECT_TRUE(torch::equal(fix_matrix(w.t().contiguous().t(), type).bytes(), fix_matrix(w, type).bytes()));
    }
}

TEST(FixedMatrix, BytesOfSomebodyElseAreFiniteOrNot) {
  const auto put_half = [](const Tensor& bytes, int64_t at, int bits) {
    bytes[at] = bits & 0xff;
    bytes[at + 1] = bits >> 8;
  };
  // Of a weight, or of a scale in the last record of the last block.
  const std::map<FixedType, int64_t> places = {{FixedType::kFloat32, 4096 * 9 + 2},
                                               {FixedType::kBfloat16, 4096 * 5},
                                               {FixedType::kQ8, 1088 * 9 + 62},
                                               {FixedType::kQ4, 320 * 14 + 60}};
  for (const auto& [type, at] : places) {
    SCOPED_TRACE(name_of(type));
    const FixedMatrix w = fix_matrix(torch::randn({72, 70}), type);
    EXPECT_TRUE(is_finite(w));
    for (const int bits : {0x7f80, 0xff80, 0x7fc0, 0xffff, 0x7f7f}) {
      const Tensor bytes = w.bytes().clone();
      put_half(bytes, at, bits);
      EXPECT_FALSE(is_finite(FixedMatrix(type, w.outputs(), w.inputs(), bytes))) << bits;
    }
    EXPECT_TRUE(is_finite(fix_matrix(torch::full({72, 70}, 1e38), type)));
    EXPECT_TRUE(is_finite(fix_matrix(torch::full({72, 70}, -1e38), type)));
    const Tensor both = torch::full({72, 70}, 1e38);
    both.select(1, 0).fill_(-1e38);
    EXPECT_TRUE(is_finite(fix_matrix(both, type)));
    EXPECT_TRUE(restore_matrix(fix_matrix(both, type)).isfinite().all().item<bool>());
  }
}

/// The largest |w − stored| that fixed_matrix.h allows; 1.00001 for the roundings of float32 on the way.
Tensor allowed_error(const Tensor& w, FixedType type) {
  if (type == FixedType::kFloat32) return torch::zeros_like(w);
  if (type == FixedType::kBfloat16) return w.abs() / 256;
  const int64_t I = w.size(1), rest = (kGroup - I % kGroup) % kGroup;
  if (type == FixedType::kQ8) return of_group(in_groups(w.abs()).amax(2), I) * (1.008 / 254 * 1.00001);
  // Not filled up with zeros, which would be part of the range.
  const Tensor groups =
      torch::cat({w, w.narrow(1, I - 1, 1).expand({w.size(0), rest})}, 1).view({w.size(0), -1, kGroup});
  const Tensor least = groups.amin(2), range = groups.amax(2) - least + least.abs() / 128;
  return of_group(range, I) * (1.008 / 30 * 1.00001) + w.abs() * 1e-6;
}

Tensor special_rows() {
  Tensor w = torch::randn({9, 70});
  w[0].zero_();
  w[1].fill_(0.3);
  w[2].fill_(-0.3);
  w[3].mul_(3e37).clamp_(-1e38, 1e38);
  w[4].mul_(1e-42);
  w[5].zero_()[33] = 5;
  w[6].abs_().add_(100);
  w[7].abs_().add_(100).neg_();
  w[8].mul_(1e-36);
  return w;
}

TEST(FixedMatrix, ErrorsAreNotLargerThanPromised) {
  for (const FixedType type : kTypes)
    for (const Tensor& w : {torch::randn({40, 200}), torch::rand({20, 65}), special_rows()}) {
      SCOPED_TRACE(c10::str(name_of(type), " ", w.sizes()));
      const Tensor error = (restore_matrix(fix_matrix(w, type)) - w).abs();
      const double smallest = 1e-40;  // what is left of bfloat16's digits below its normal numbers
      EXPECT_TRUE((error <= allowed_error(w, type) + smallest).all().item<bool>()) << (error - allowed_error(w, type));
    }
  EXPECT_TRUE(restore_matrix(fix_matrix(torch::zeros({3, 40}), FixedType::kQ4)).eq(0).all().item<bool>());
  EXPECT_TRUE(restore_matrix(fix_matrix(torch::zeros({3, 40}), FixedType::kQ8)).eq(0).all().item<bool>());
}

// Files are read as they were written, by other processors and later versions.
TEST(FixedMatrix, BytesAreWhereTheHeaderSays) {
  const int64_t O = 70, I = 70, o = 67, i = 49;
  const Tensor w = torch::zeros({O, I});
  w[o][i] = -3;
  const auto bytes_of = [&](FixedType type) { return fix_matrix(w, type).bytes(); };
  const auto half_at = [](const Tensor& bytes, int64_t at) {
    const uint32_t bits = bytes[at].item<uint8_t>() << 16 | bytes[at + 1].item<uint8_t>() << 24;
    float x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
  };
  const Tensor f = bytes_of(FixedType::kFloat32), b = bytes_of(FixedType::kBfloat16), q8 = bytes_of(FixedType::kQ8),
               q4 = bytes_of(FixedType::kQ4);
  EXPECT_EQ(f.numel(), 2 * 5 * 4096);
  EXPECT_EQ(half_at(f, (5 + i / 16) * 4096 + (i % 16 * 64 + o % 64) * 4 + 2), -3);
  EXPECT_EQ(b.numel(), 2 * 3 * 4096);
  EXPECT_EQ(half_at(b, (3 + i / 32) * 4096 + (i % 32 / 2 * 64 + o % 64) * 4 + i % 2 * 2), -3);
  EXPECT_EQ(q8.numel(), 5 * 2 * 1088);
  const int64_t q8_record = (o / 16 * 2 + i / 64) * 1088, q4_record = (o / 16 * 3 + i / 32) * 320;
  const float s8 = half_at(q8, q8_record + o % 16 * 4 + i % 64 / 32 * 2);
  EXPECT_NEAR(s8, 3.0 / 127, 3.0 / 127 * 0.008);
  const int c8 = q8[q8_record + 64 + (i % 64 / 4 * 16 + o % 16) * 4 + i % 4].item<uint8_t>();
  EXPECT_NEAR(static_cast<float>(c8 - 128) * s8, -3, s8 / 2);
  EXPECT_EQ(q4.numel(), 5 * 3 * 320);
  const float m = half_at(q4, q4_record + o % 16 * 4), s4 = half_at(q4, q4_record + o % 16 * 4 + 2);
  EXPECT_EQ(m, -3);
  EXPECT_NEAR(s4, 0.2, 0.2 * 0.008);
  const int64_t j = i % 32 - 16;  // in the upper half
  const int both = q4[q4_record + 64 + (j / 4 * 16 + o % 16) * 4 + j % 4].item<uint8_t>();
  EXPECT_EQ(both >> 4, 0);
  EXPECT_EQ(both & 15, 15) << "of a zero";
}

/// The largest |y − x Wᵀ| where W is what is stored.
Tensor allowed_difference(const Tensor& x, const Tensor& w, FixedType type) {
  const Tensor magnitudes = torch::mm(x.abs(), w.abs().t());
  const Tensor sums = magnitudes * 2e-6;
  if (type == FixedType::kFloat32) return sums;
  if (type == FixedType::kBfloat16) return sums + magnitudes * (1.01 / 256);
  return sums + torch::mm(of_group(in_groups(x.abs()).amax(2), x.size(1)), w.abs().t()) * (1.001 / 254);
}

TEST(FixedMatrix, ProductsAgreeWithFloat64) {
  for (const FixedType type : kTypes)
    for (const auto& [O, I] : kShapes) {
      const FixedMatrix w = fix_matrix(torch::randn({O, I}), type);
      const Tensor restored = restore_matrix(w).to(torch::kFloat64);
      for (const int64_t M : {0, 1, 2, 7, 16, 32, 33, 200}) {
        SCOPED_TRACE(c10::str(name_of(type), " ", O, " x ", I, ", ", M, " rows"));
        const Tensor x = torch::randn({M, I}) * torch::randn({M, 1}).exp(), bias = torch::randn({O}),
                     addend = torch::randn({M, O}), x64 = x.to(torch::kFloat64);
        const Tensor expected = ref::fixed_linear(x64, w), allowed = allowed_difference(x64, restored, type) + 1e-6;
        const auto agrees = [&](const Tensor& y, const Tensor& added) {
          return ((y.to(torch::kFloat64) - expected - added).abs() <= allowed).all().item<bool>();
        };
        EXPECT_TRUE(agrees(fixed_linear(x, w), torch::zeros({1})));
        EXPECT_TRUE(agrees(fixed_linear(x, w, bias), bias));
        EXPECT_TRUE(agrees(fixed_linear(x, w, {}, addend), addend));
        EXPECT_TRUE(agrees(fixed_linear(x, w, bias, addend), bias + addend));
      }
    }
}

TEST(FixedMatrix, ManyRowsTakeLargeMatricesInTiles) {
  const Tensor raw = torch::randn({700, 2000}), x = torch::randn({40, 2000}), bias = torch::randn({700}),
               addend = torch::randn({40, 700});
  for (const FixedType type : kTypes) {
    const FixedMatrix w = fix_matrix(raw, type);
    const Tensor x64 = x.to(torch::kFloat64), expected = ref::fixed_linear(x64, w, bias.to(torch::kFloat64), addend);
    const double allowed = type == FixedType::kFloat32 ? 1e-6 : in_codes(type) ? 7e-3 : 3e-3;
    const double error = (fixed_linear(x, w, bias, addend).to(torch::kFloat64) - expected).norm().item<double>();
    EXPECT_LT(error, allowed * expected.norm().item<double>()) << name_of(type);
  }
}

// Roundings of x are independent: they add up to far less than at their worst.
TEST(FixedMatrix, RoundingXCostsHalfAPercent) {
  const Tensor raw = torch::randn({300, 512});
  for (const FixedType type : kTypes)
    for (const int64_t M : {1, 8, 64}) {
      SCOPED_TRACE(c10::str(name_of(type), " ", M));
      const FixedMatrix w = fix_matrix(raw, type);
      const Tensor x = torch::randn({M, 512}), expected = ref::fixed_linear(x.to(torch::kFloat64), w);
      const double error = (fixed_linear(x, w).to(torch::kFloat64) - expected).norm().item<double>();
      const double allowed = type == FixedType::kFloat32 ? 1e-6 : in_codes(type) ? 7e-3 : 3e-3;
      EXPECT_LT(error, allowed * expected.norm().item<double>());
    }
}

TEST(FixedMatrix, ARowsResultDoesNotDependOnOtherRowsOrThreads) {
  const int before = at::get_num_threads();
  for (const FixedType type : kTypes) {
    const FixedMatrix w = fix_matrix(torch::randn({300, 330}), type);
    const Tensor x = torch::randn({kFewRows, 330});
    const Tensor expected = fixed_linear(x, w);
    if (in_codes(type)) {
      EXPECT_TRUE(torch::equal(fixed_linear(x.repeat({10, 1}), w), expected.repeat({10, 1})));
    }
    for (const int threads : {1, 2, 5})
      for (int64_t M = 1; M <= kFewRows; ++M) {
        SCOPED_TRACE(c10::str(name_of(type), ", ", M, " rows, ", threads, " threads"));
        at::set_num_threads(threads);
        const Tensor last = x.narrow(0, kFewRows - M, M);
        EXPECT_TRUE(torch::equal(fixed_linear(last, w), expected.narrow(0, kFewRows - M, M)));
      }
  }
  at::set_num_threads(before);
}

TEST(FixedMatrix, TakesAnyShapeAndStridesOfX) {
  for (const FixedType type : kTypes)
    for (const int64_t T : {3, 30}) {
      const FixedMatrix w = fix_matrix(torch::randn({20, 48}), type);
      const Tensor x = torch::randn({2, T, 48}), addend = torch::randn({2, T, 20}), y = fixed_linear(x, w, {}, addend);
      EXPECT_EQ(y.sizes(), addend.sizes());
      const auto turned = [](const Tensor& t) { return t.transpose(0, 2).contiguous().transpose(0, 2); };
      EXPECT_TRUE(torch::equal(fixed_linear(turned(x), w, {}, turned(addend)), y));
      EXPECT_TRUE(torch::equal(fixed_linear(x.view({-1, 48}), w, {}, addend.view({-1, 20})), y.view({-1, 20})));
    }
  const FixedMatrix w = fix_matrix(torch::randn({20, 48}), FixedType::kQ4);
  EXPECT_EQ(fixed_linear(torch::randn({48}), w).sizes(), torch::IntArrayRef({20}));
}

TEST(FixedMatrix, ViewsBytesThatSomebodyElseOwns) {
  for (const FixedType type : kTypes) {
    const FixedMatrix w = fix_matrix(torch::randn({70, 90}), type);
    std::vector<uint32_t> file(1 + static_cast<size_t>(w.bytes().numel()) / 4);
    std::memcpy(file.data() + 1, w.bytes().data_ptr(), static_cast<size_t>(w.bytes().numel()));
    const FixedMatrix view(type, 70, 90, torch::from_blob(file.data() + 1, {w.bytes().numel()}, torch::kUInt8));
    for (const int64_t M : {5, 40}) {
      const Tensor x = torch::randn({M, 90});
      EXPECT_TRUE(torch::equal(fixed_linear(x, view), fixed_linear(x, w)));
    }
    EXPECT_EQ(view.view().bytes, reinterpret_cast<const uint8_t*>(file.data() + 1)) << "nothing is copied";
    EXPECT_EQ(view.to(torch::kCPU).view().bytes, view.view().bytes) << "it is there";
  }
}

TEST(FixedMatrix, NotANumberStaysInItsRow) {
  for (const FixedType type : kTypes)
    for (const int64_t M : {3, 40})
      for (const float bad : {NAN, INFINITY, -INFINITY}) {
        SCOPED_TRACE(c10::str(name_of(type), " ", M, " ", bad));
        const FixedMatrix w = fix_matrix(torch::randn({20, 50}), type);
        const Tensor x = torch::randn({M, 50}), good = fixed_linear(x, w);
        x[1][37] = bad;
        const Tensor y = fixed_linear(x, w);
        EXPECT_FALSE(y[1].isfinite().any().item<bool>());
        EXPECT_TRUE(torch::equal(y[0], good[0]) && torch::equal(y.slice(0, 2), good.slice(0, 2)));
      }
}

TEST(FixedMatrix, TinyAndHugeXKeepTheirPrecision) {
  for (const FixedType type : kTypes)
    for (const double size : {1e-30, 1e-20, 1e20, 1e30}) {
      SCOPED_TRACE(c10::str(name_of(type), " ", size));
      const FixedMatrix w = fix_matrix(torch::randn({20, 64}), type);
      const Tensor x = torch::randn({2, 64});
      EXPECT_TRUE(
          close(fixed_linear(x * size, w) / size, fixed_linear(x, w), type == FixedType::kFloat32 ? 1e-6 : 8e-3));
    }
  for (const FixedType type : kTypes) {
    const FixedMatrix w = fix_matrix(torch::randn({20, 64}), type);
    EXPECT_TRUE(fixed_linear(torch::zeros({2, 64}), w).eq(0).all().item<bool>());
    EXPECT_TRUE((fixed_linear(torch::full({2, 64}, 1e-40F), w).abs() < 1e-36).all().item<bool>());
  }
}

TEST(FixedMatrix, NamesAreReadBack) {
  for (const FixedType type : kTypes) EXPECT_EQ(fixed_type(name_of(type)), type);
  EXPECT_THROW(fixed_type("q5"), Error);
}

TEST(FixedMatrix, RefusesWhatItCannotDo) {
  const Tensor w = torch::randn({5, 4}), x = torch::randn({3, 4});
  const FixedMatrix fixed = fix_matrix(w, FixedType::kQ8);
  for (const float bad : {NAN, INFINITY, 2e38F}) {
    Tensor broken = w.clone();
    broken[2][3] = bad;
    for (const FixedType type : kTypes) {
      EXPECT_THROW(fix_matrix(broken, type), Error);
      EXPECT_THROW(fix_matrix(broken.to(torch::kBFloat16), type), Error);
    }
  }
  EXPECT_THROW(fix_matrix(w.to(torch::kFloat64), FixedType::kQ8), Error);
  EXPECT_THROW(fix_matrix(torch::randn({5}), FixedType::kQ8), Error);
  EXPECT_THROW(fix_matrix(torch::randn({0, 4}), FixedType::kQ8), Error);
  EXPECT_THROW(FixedMatrix(FixedType::kQ8, 5, 4, torch::zeros({1087}, torch::kUInt8)), Error);
  EXPECT_THROW(FixedMatrix(FixedType::kQ8, 5, 4, torch::zeros({1088}, torch::kInt8)), Error);
  EXPECT_THROW(FixedMatrix(FixedType::kQ8, 5, 4, torch::zeros({2176}, torch::kUInt8).slice(0, 0, 2176, 2)), Error);
  EXPECT_THROW(FixedMatrix(FixedType::kQ8, 5, 4, torch::zeros({1090}, torch::kUInt8).slice(0, 2)), Error);
  EXPECT_THROW(
      FixedMatrix(FixedType::kQ8, 5, 4, torch::empty({1088}, torch::dtype(torch::kUInt8).device(torch::kMeta))), Error);
  EXPECT_THROW(fixed_linear(x.to(torch::kMeta), fixed), Error);
  EXPECT_THROW(fixed_linear(x, {}), Error);
  EXPECT_THROW(fixed_linear(x.to(torch::kFloat64), fixed), Error);
  EXPECT_THROW(fixed_linear(torch::randn({3, 5}), fixed), Error);
  EXPECT_THROW(fixed_linear(x, fixed, torch::ones({4})), Error);
  EXPECT_THROW(fixed_linear(x, fixed, {}, torch::ones({3, 4})), Error);
}

}  // namespace
}  // namespace megalodon::ops::fixed_matrix_test
