#include <optional>

#include "ops/cuda_testing.h"
#include "ops/linear_recurrence/linear_recurrence_kernel.h"

namespace megalodon::ops {
namespace {

using namespace testing;

struct Shape {
  int64_t B, L, D, N;
  bool state, starts;
  NumberType type = NumberType::kFloat32;
};

/// Coefficients of a decaying, turning recurrence: |q| from 0.5 to nearly 1.
std::vector<float> decaying(int64_t count, uint32_t seed) {
  std::vector<float> q = random_numbers(2 * count, seed);
  for (int64_t i = 0; i < count; ++i) {
    const float radius = 0.5f + 0.499f * std::abs(std::sin(q[2 * i])), angle = q[2 * i + 1];
    q[2 * i] = radius * std::cos(angle), q[2 * i + 1] = radius * std::sin(angle);
  }
  return q;
}

std::vector<uint8_t> sparse_starts(int64_t count) {
  std::vector<uint8_t> starts(count);
  for (int64_t i = 0; i < count; ++i) starts[i] = i % 97 == 5 || i % 64 == 0 ? 1 : 0;
  return starts;
}

/// Everything one call reads, on the host.
struct Problem {
  Shape shape;
  std::vector<float> x, dy, q, c, skip, h0, dh;
  std::vector<uint8_t> starts;

  explicit Problem(const Shape& s) : shape(s) {
    x = random_numbers(s.B * s.L * s.D, 1, 1, s.type);
    dy = random_numbers(s.B * s.L * s.D, 2, 1, s.type);
    q = decaying(s.D * s.N, 3);
    c = random_numbers(2 * s.D * s.N, 4);
    skip = random_numbers(s.D, 5);
    h0 = random_numbers(2 * s.B * s.D * s.N, 6, 3);
    dh = random_numbers(2 * s.B * s.D * s.N, 7, 3);
    starts = sparse_starts(s.B * s.L);
  }
  RecurrenceInputs host() const {
    return {shape.B,
            shape.L,
            shape.D,
            shape.N,
            NumberType::kFloat32,
            x.data(),
            q.data(),
            c.data(),
            skip.data(),
            shape.state ? h0.data() : nullptr,
            shape.starts ? reinterpret_cast<const bool*>(starts.data()) : nullptr};
  }
};

/// The same in device memory.
struct OnDevice {
  DeviceArray<float> x, q, c, skip, h0;
  DeviceArray<uint8_t> starts;

  explicit OnDevice(const Problem& p)
      : x(p.x, p.shape.type), q(p.q), c(p.c), skip(p.skip), h0(p.h0), starts(p.starts) {}
  RecurrenceInputs inputs(const Shape& s) {
    return {s.B,
            s.L,
            s.D,
            s.N,
            s.type,
            x.numbers(),
            q.data(),
            c.data(),
            skip.data(),
            s.state ? h0.data() : nullptr,
            s.starts ? static_cast<const bool*>(starts.numbers()) : nullptr};
  }
};

class LinearRecurrenceCuda : public ::testing::TestWithParam<Shape> {
 protected:
  void SetUp() override {
    if (!has_gpu()) GTEST_SKIP() << kNoGpu;
  }
};

TEST_P(LinearRecurrenceCuda, ForwardIsTheCpuKernels) {
  const Shape s = GetParam();
  const Problem p(s);
  std::vector<float> y(p.x.size()), h(p.h0.size());
  linear_recurrence_forward_cpu(p.host(), {y.data(), h.data()});

  OnDevice device(p);
  DeviceArray<float> got_y(y.size(), s.type), got_h(h.size());
  TestQueue queue;
  linear_recurrence_forward_cuda(device.inputs(s), {got_y.numbers(), got_h.data()}, queue);
  EXPECT_TRUE(close(got_y.values(), y, tolerance(s.type, 2e-6)));
  EXPECT_TRUE(close(got_h.values(), h, 2e-6));
}

TEST_P(LinearRecurrenceCuda, BackwardIsTheCpuKernels) {
  const Shape s = GetParam();
  const Problem p(s);
  std::vector<float> dx(p.x.size()), dq(p.q.size()), dc(p.c.size()), dskip(p.skip.size()), dh0(p.h0.size());
  linear_recurrence_backward_cpu(p.host(), {p.dy.data(), s.state ? p.dh.data() : nullptr, dx.data(), dq.data(),
                                            dc.data(), dskip.data(), s.state ? dh0.data() : nullptr});

  OnDevice device(p);
  DeviceArray<float> dy(p.dy, s.type), dh(p.dh), got_dx(dx.size(), s.type), got_dq(dq.size()), got_dc(dc.size()),
      got_dskip(dskip.size()), got_dh0(dh0.size());
  TestQueue queue;
  linear_recurrence_backward_cuda(device.inputs(s),
                                  {dy.numbers(), s.state ? dh.data() : nullptr, got_dx.numbers(), got_dq.data(),
                                   got_dc.data(), got_dskip.data(), s.state ? got_dh0.data() : nullptr},
                                  queue);
  EXPECT_TRUE(close(got_dx.values(), dx, tolerance(s.type, 4e-6)));
  EXPECT_TRUE(close(got_dq.values(), dq, 2e-5));
  EXPECT_TRUE(close(got_dc.values(), dc, 2e-5));
  EXPECT_TRUE(close(got_dskip.values(), dskip, 2e-5));
  if (s.state) {
    EXPECT_TRUE(close(got_dh0.values(), dh0, 4e-6));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, LinearRecurrenceCuda,
                         ::testing::Values(Shape{1, 1, 8, 16, true, false},       //
                                           Shape{2, 7, 5, 3, true, true},         //
                                           Shape{2, 33, 130, 8, false, false},    //
                                           Shape{2, 333, 65, 16, true, true},     //
                                           Shape{1, 2048, 200, 16, false, true},  //
                                           Shape{3, 500, 40, 33, true, false},    //
                                           Shape{1, 100, 3, 256, true, true},     //
                                           Shape{2, 513, 96, 16, true, true, NumberType::kBfloat16},
                                           Shape{1, 4000, 96, 16, false, false, NumberType::kBfloat16}));

}  // namespace
}  // namespace megalodon::ops
