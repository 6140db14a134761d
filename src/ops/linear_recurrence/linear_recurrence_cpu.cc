// One task is one batch row and one vector of neighbouring features ("lanes"): batch 1 still fills all cores. A task
// walks time in blocks of kSteps; for each block it copies its columns of x to a buffer in L1, then takes the N orders
// in groups of up to four whose states and coefficients stay in registers over the block, adding their share of y to
// the buffer.
//
// The backward first runs forward keeping only the states before each block, then takes the blocks in reverse: it
// recomputes the states of a group within the block and runs the adjoint recurrence against them. It needs
// N / kSteps states per step instead of N.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/linear_recurrence/linear_recurrence_cpu.cc"
#include <hwy/foreach_target.h>
// foreach_target.h comes first
#include <hwy/aligned_allocator.h>
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <utility>

#include "base/parallel.h"
#include "ops/flush_denormals.h"
#include "ops/linear_recurrence/linear_recurrence_kernel.h"

#ifndef MEGALODON_OPS_LINEAR_RECURRENCE_CPU_ONCE
#define MEGALODON_OPS_LINEAR_RECURRENCE_CPU_ONCE
namespace megalodon::ops {

// With 16 lanes and four orders the recomputed states of a block take 16 KiB and its x, dy, dx 6 KiB: inside L1 (32 KiB
// and up) with room for coefficients. Reloading the registers once per block costs about 3 % at 32 steps.
constexpr int64_t kSteps = 32;

constexpr bool kNoStarts[kSteps] = {};

}  // namespace megalodon::ops
#endif

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using F32 = hn::ScalableTag<float>;
using V = hn::Vec<F32>;

constexpr F32 kF32;

HWY_INLINE int64_t lanes() {
  return static_cast<int64_t>(hn::Lanes(kF32));
}

// ---- Buffers. "Rows" are [steps][lanes]; "orders" are [N][re, im][lanes]. Lanes beyond D hold zeros, so that the
// ---- arithmetic below never sees a tail.

struct Columns {
  int64_t first, count;  // features of this task; count < lanes() in the last task only
  int64_t stride;        // D
};

HWY_INLINE void load_rows(const float* from, const Columns& columns, int64_t steps, float* to) {
  from += columns.first;
  for (int64_t t = 0; t < steps; ++t, from += columns.stride, to += lanes()) {
    if (columns.count == lanes()) {
      hn::Store(hn::LoadU(kF32, from), kF32, to);
    } else {
      for (int64_t i = 0; i < lanes(); ++i) to[i] = i < columns.count ? from[i] : 0.0F;
    }
  }
}

HWY_INLINE void store_rows(const float* from, const Columns& columns, int64_t steps, float* to) {
  to += columns.first;
  for (int64_t t = 0; t < steps; ++t, from += lanes(), to += columns.stride) {
    if (columns.count == lanes()) {
      hn::StoreU(hn::Load(kF32, from), kF32, to);
    } else {
      for (int64_t i = 0; i < columns.count; ++i) to[i] = from[i];
    }
  }
}

/// Asks for the rows of a block while another is computed: rows lie D floats apart, where no hardware prefetcher
/// follows. Into L2: at D = 1024 all rows of a block fall into one set of L1.
HWY_INLINE void prefetch_rows(const float* from, const Columns& columns, int64_t steps) {
  from += columns.first;
  for (int64_t t = 0; t < steps; ++t) __builtin_prefetch(from + t * columns.stride, /*write=*/0, /*locality=*/2);
}

/// From complex [D,N]; null means zero.
HWY_INLINE void load_orders(const float* from, const Columns& columns, int64_t N, float* to) {
  if (from == nullptr || columns.count < lanes()) std::fill_n(to, 2 * N * lanes(), 0.0F);
  if (from == nullptr) return;
  from += 2 * columns.first * N;
  for (int64_t i = 0; i < columns.count; ++i)
    for (int64_t n = 0; n < 2 * N; ++n) to[n * lanes() + i] = *from++;
}

HWY_INLINE void store_orders(const float* from, const Columns& columns, int64_t N, float* to) {
  to += 2 * columns.first * N;
  for (int64_t i = 0; i < columns.count; ++i)
    for (int64_t n = 0; n < 2 * N; ++n) *to++ = from[n * lanes() + i];
}

/// Calls group.run<K>(n) for orders n .. n + K - 1, K at most 4. Four orders give 16 independent multiply-adds per
/// step, enough to cover the latency of the two that follow each other in one order.
template <class Group>
HWY_INLINE void for_each_group(int64_t N, const Group& group) {
  int64_t n = 0;
  for (; n + 4 <= N; n += 4) group.template run<4>(n);
  if (n + 2 <= N) {
    group.template run<2>(n);
    n += 2;
  }
  if (n < N) group.template run<1>(n);
}

// ---- K complex numbers per lane.

template <int64_t K>
struct Orders {
  V re[K], im[K];
};

template <int64_t K>
HWY_INLINE Orders<K> load(const float* from) {
  Orders<K> z;
  for (int64_t k = 0; k < K; ++k) {
    z.re[k] = hn::Load(kF32, from + 2 * k * lanes());
    z.im[k] = hn::Load(kF32, from + (2 * k + 1) * lanes());
  }
  return z;
}

template <int64_t K>
HWY_INLINE void store(const Orders<K>& z, float* to) {
  for (int64_t k = 0; k < K; ++k) {
    hn::Store(z.re[k], kF32, to + 2 * k * lanes());
    hn::Store(z.im[k], kF32, to + (2 * k + 1) * lanes());
  }
}

template <int64_t K>
HWY_INLINE Orders<K> zeros() {
  Orders<K> z;
  for (int64_t k = 0; k < K; ++k) z.re[k] = z.im[k] = hn::Zero(kF32);
  return z;
}

/// h = q h + x
template <int64_t K>
HWY_INLINE void advance(const Orders<K>& q, V x, Orders<K>& h) {
  for (int64_t k = 0; k < K; ++k) {
    const V re = hn::NegMulAdd(q.im[k], h.im[k], hn::MulAdd(q.re[k], h.re[k], x));
    h.im[k] = hn::MulAdd(q.re[k], h.im[k], hn::Mul(q.im[k], h.re[k]));
    h.re[k] = re;
  }
}

/// sum += conj(a) b
template <int64_t K>
HWY_INLINE void add_conj_product(const Orders<K>& a, const Orders<K>& b, Orders<K>& sum) {
  for (int64_t k = 0; k < K; ++k) {
    sum.re[k] = hn::MulAdd(a.im[k], b.im[k], hn::MulAdd(a.re[k], b.re[k], sum.re[k]));
    sum.im[k] = hn::NegMulAdd(a.im[k], b.re[k], hn::MulAdd(a.re[k], b.im[k], sum.im[k]));
  }
}

/// sum += conj(a) s, s real
template <int64_t K>
HWY_INLINE void add_conj_scaled(const Orders<K>& a, V s, Orders<K>& sum) {
  for (int64_t k = 0; k < K; ++k) {
    sum.re[k] = hn::MulAdd(a.re[k], s, sum.re[k]);
    sum.im[k] = hn::NegMulAdd(a.im[k], s, sum.im[k]);
  }
}

// ---- One group of orders over one block of time. Pointers are to the rows of the block and to order 0 of the task.

/// y += Re Σ c h, and h moves from before the block to after it.
struct ForwardBlock {
  const float *q, *c, *x;
  const bool* starts;
  int64_t steps;
  float *h, *y;

  template <int64_t K>
  HWY_INLINE void run(int64_t n) const {
    const int64_t at = 2 * n * lanes();
    const Orders<K> q_n = load<K>(q + at), c_n = load<K>(c + at);
    Orders<K> h_n = load<K>(h + at);
    for (int64_t t = 0; t < steps; ++t) {
      if (starts[t]) h_n = zeros<K>();
      advance(q_n, hn::Load(kF32, x + t * lanes()), h_n);
      V y_t = hn::Load(kF32, y + t * lanes());
      for (int64_t k = 0; k < K; ++k) y_t = hn::NegMulAdd(c_n.im[k], h_n.im[k], hn::MulAdd(c_n.re[k], h_n.re[k], y_t));
      hn::Store(y_t, kF32, y + t * lanes());
    }
    store(h_n, h + at);
  }
};

/// The states alone: `after` the block from `before` it.
struct StateBlock {
  const float *q, *x;
  const bool* starts;
  int64_t steps;
  const float* before;
  float* after;

  template <int64_t K>
  HWY_INLINE void run(int64_t n) const {
    const int64_t at = 2 * n * lanes();
    const Orders<K> q_n = load<K>(q + at);
    Orders<K> h_n = load<K>(before + at);
    for (int64_t t = 0; t < steps; ++t) {
      if (starts[t]) h_n = zeros<K>();
      advance(q_n, hn::Load(kF32, x + t * lanes()), h_n);
    }
    store(h_n, after + at);
  }
};

/// The adjoint: `carry` is conj(q) g of the step after the block and becomes that of its first step.
struct BackwardBlock {
  const float *q, *c, *x, *dy;
  const bool* starts;
  int64_t steps;
  const float* before;  // the states before the block
  float* states;        // [kSteps][4 orders]: scratch for what each step continues from, zero where a document begins
  float *carry, *dx, *dq, *dc;

  template <int64_t K>
  HWY_INLINE void run(int64_t n) const {
    const int64_t at = 2 * n * lanes();
    recompute<K>(at);
    const Orders<K> q_n = load<K>(q + at), c_n = load<K>(c + at);
    Orders<K> carry_n = load<K>(carry + at), dq_n = load<K>(dq + at);
    for (int64_t t = steps - 1; t >= 0; --t) {
      Orders<K> g = carry_n;
      add_conj_scaled(c_n, hn::Load(kF32, dy + t * lanes()), g);
      V dx_t = hn::Load(kF32, dx + t * lanes());
      for (int64_t k = 0; k < K; ++k) dx_t = hn::Add(dx_t, g.re[k]);
      hn::Store(dx_t, kF32, dx + t * lanes());
      add_conj_product(load<K>(states + 2 * K * t * lanes()), g, dq_n);
      carry_n = zeros<K>();
      if (!starts[t]) add_conj_product(q_n, g, carry_n);
    }
    store(carry_n, carry + at);
    store(dq_n, dq + at);
  }

  template <int64_t K>
  HWY_INLINE void recompute(int64_t at) const {
    const Orders<K> q_n = load<K>(q + at);
    Orders<K> h_n = load<K>(before + at), dc_n = load<K>(dc + at);
    for (int64_t t = 0; t < steps; ++t) {
      if (starts[t]) h_n = zeros<K>();
      store(h_n, states + 2 * K * t * lanes());
      advance(q_n, hn::Load(kF32, x + t * lanes()), h_n);
      add_conj_scaled(h_n, hn::Load(kF32, dy + t * lanes()), dc_n);
    }
    store(dc_n, dc + at);
  }
};

// ---- Tasks.

/// Hands out pieces of one allocation, each a whole number of vectors.
class Scratch {
 public:
  explicit Scratch(int64_t rows) : memory_(hwy::AllocateAligned<float>(rows * lanes())), next_(memory_.get()) {}
  float* take(int64_t rows) { return std::exchange(next_, next_ + rows * lanes()); }

 private:
  hwy::AlignedFreeUniquePtr<float[]> memory_;
  float* next_;
};

HWY_INLINE int64_t tasks_per_row(int64_t D) {
  return (D + lanes() - 1) / lanes();
}

HWY_INLINE Columns columns_of(const RecurrenceInputs& in, int64_t task) {
  const int64_t first = task % tasks_per_row(in.D) * lanes();
  return {first, std::min(lanes(), in.D - first), in.D};
}

/// Row b of a [B, size] array that may be absent.
template <class T>
HWY_INLINE T* row(T* array, int64_t b, int64_t size) {
  return array == nullptr ? nullptr : array + b * size;
}

HWY_INLINE V load_skip(const float* skip, const Columns& columns, float* buffer) {
  load_rows(skip, columns, 1, buffer);
  return hn::Load(kF32, buffer);
}

int64_t task_count(const RecurrenceInputs& in) {
  return in.B * tasks_per_row(in.D);
}

void forward_task(const RecurrenceInputs& in, const RecurrenceOutputs& out, int64_t task) {
  const int64_t b = task / tasks_per_row(in.D), N = in.N;
  const Columns columns = columns_of(in, task);
  Scratch scratch(6 * N + 2 * kSteps);
  float *q = scratch.take(2 * N), *c = scratch.take(2 * N), *h = scratch.take(2 * N);
  float *x = scratch.take(kSteps), *y = scratch.take(kSteps);
  load_orders(in.q, columns, N, q);
  load_orders(in.c, columns, N, c);
  load_orders(row(in.h0, b, 2 * in.D * N), columns, N, h);
  const V skip = load_skip(in.skip, columns, x);
  for (int64_t t0 = 0; t0 < in.L; t0 += kSteps) {
    const int64_t steps = std::min(kSteps, in.L - t0), at = b * in.L + t0;
    load_rows(as_floats(in.x) + at * in.D, columns, steps, x);
    prefetch_rows(as_floats(in.x) + (at + steps) * in.D, columns, std::min(kSteps, in.L - t0 - steps));
    prefetch_rows(as_floats(out.y) + at * in.D, columns, steps);
    for (int64_t t = 0; t < steps; ++t)
      hn::Store(hn::Mul(skip, hn::Load(kF32, x + t * lanes())), kF32, y + t * lanes());
    const bool* starts = in.starts == nullptr ? kNoStarts : in.starts + at;
    for_each_group(N, ForwardBlock{q, c, x, starts, steps, h, y});
    store_rows(y, columns, steps, as_floats(out.y) + at * in.D);
  }
  if (out.h != nullptr) store_orders(h, columns, N, out.h + b * 2 * in.D * N);
}

/// dq, dc and dskip of `grad` are [B, ..] here: one partial sum per task.
void backward_task(const RecurrenceInputs& in, const RecurrenceGradients& grad, int64_t task) {
  const int64_t b = task / tasks_per_row(in.D), N = in.N, orders = 2 * N, blocks = (in.L + kSteps - 1) / kSteps;
  const Columns columns = columns_of(in, task);
  Scratch scratch((5 + blocks) * orders + 11 * kSteps);
  float *q = scratch.take(orders), *c = scratch.take(orders), *carry = scratch.take(orders);
  float *dq = scratch.take(orders), *dc = scratch.take(orders), *states = scratch.take(8 * kSteps);
  float *x = scratch.take(kSteps), *dy = scratch.take(kSteps), *dx = scratch.take(kSteps);
  float* boundaries = scratch.take(blocks * orders);
  load_orders(in.q, columns, N, q);
  load_orders(in.c, columns, N, c);
  load_orders(row(in.h0, b, in.D * orders), columns, N, boundaries);
  load_orders(row(grad.dh, b, in.D * orders), columns, N, carry);
  std::fill_n(dq, orders * lanes(), 0.0F);
  std::fill_n(dc, orders * lanes(), 0.0F);
  const V skip = load_skip(in.skip, columns, x);
  V dskip = hn::Zero(kF32);

  for (int64_t block = 0; block + 1 < blocks; ++block) {
    const int64_t at = b * in.L + block * kSteps;
    const bool* starts = in.starts == nullptr ? kNoStarts : in.starts + at;
    float* before = boundaries + block * orders * lanes();
    load_rows(as_floats(in.x) + at * in.D, columns, kSteps, x);
    prefetch_rows(as_floats(in.x) + (at + kSteps) * in.D, columns, std::min(kSteps, in.L - (block + 1) * kSteps));
    for_each_group(N, StateBlock{q, x, starts, kSteps, before, before + orders * lanes()});
  }
  for (int64_t block = blocks - 1; block >= 0; --block) {
    const int64_t steps = std::min(kSteps, in.L - block * kSteps), at = b * in.L + block * kSteps;
    const bool* starts = in.starts == nullptr ? kNoStarts : in.starts + at;
    const float* before = boundaries + block * orders * lanes();
    load_rows(as_floats(in.x) + at * in.D, columns, steps, x);
    load_rows(as_floats(grad.dy) + at * in.D, columns, steps, dy);
    if (block > 0) {
      prefetch_rows(as_floats(in.x) + (at - kSteps) * in.D, columns, kSteps);
      prefetch_rows(as_floats(grad.dy) + (at - kSteps) * in.D, columns, kSteps);
    }
    for (int64_t t = 0; t < steps * lanes(); t += lanes()) {
      const V dy_t = hn::Load(kF32, dy + t);
      dskip = hn::MulAdd(hn::Load(kF32, x + t), dy_t, dskip);
      hn::Store(hn::Mul(skip, dy_t), kF32, dx + t);
    }
    for_each_group(N, BackwardBlock{q, c, x, dy, starts, steps, before, states, carry, dx, dq, dc});
    store_rows(dx, columns, steps, as_floats(grad.dx) + at * in.D);
  }
  hn::Store(dskip, kF32, x);
  store_rows(x, columns, 1, grad.dskip + b * in.D);
  store_orders(dq, columns, N, grad.dq + b * in.D * orders);
  store_orders(dc, columns, N, grad.dc + b * in.D * orders);
  if (grad.dh0 != nullptr) store_orders(carry, columns, N, grad.dh0 + b * in.D * orders);
}

/// One step of features [first, last) of row b, from state to state: decoding a token. Everything is read in place; the
/// vectors run over N here, as the arrays lie in memory.
void decode_features(const RecurrenceInputs& in, const RecurrenceOutputs& out, int64_t b, int64_t first, int64_t last) {
  for (int64_t d = first; d < last; ++d) {
    const int64_t of_d = 2 * d * in.N, of_bd = 2 * (b * in.D + d) * in.N;
    const float *q = in.q + of_d, *c = in.c + of_d, *h0 = in.h0 + of_bd;
    float* h = out.h + of_bd;
    const float x = as_floats(in.x)[b * in.D + d];
    float y = in.skip[d] * x;
#pragma omp simd reduction(+ : y)
    for (int64_t n = 0; n < in.N; ++n) {
      const float re = q[2 * n] * h0[2 * n] - q[2 * n + 1] * h0[2 * n + 1] + x;
      const float im = q[2 * n] * h0[2 * n + 1] + q[2 * n + 1] * h0[2 * n];
      h[2 * n] = re;
      h[2 * n + 1] = im;
      y += c[2 * n] * re - c[2 * n + 1] * im;
    }
    as_floats(out.y)[b * in.D + d] = y;
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace megalodon::ops
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(task_count);
HWY_EXPORT(forward_task);
HWY_EXPORT(backward_task);
HWY_EXPORT(decode_features);

// Decoding: features per task, so that a task holds about 16 Ki states, 10 us of work; below that a thread does not
// pay.
constexpr int64_t kDecodeStates = 1 << 14;

void decode(const RecurrenceInputs& in, const RecurrenceOutputs& out) {
  const int64_t features = std::max<int64_t>(1, kDecodeStates / in.N), blocks = (in.D + features - 1) / features;
  parallel_for(in.B * blocks, [&](int64_t task) {
    const FlushDenormals flush;
    const int64_t first = task % blocks * features;
    HWY_DYNAMIC_DISPATCH(decode_features)(in, out, task / blocks, first, std::min(in.D, first + features));
  });
}

/// sum_i = Σ_b parts_b,i in the order of b, whatever the threads.
void sum_rows(const float* parts, int64_t B, int64_t size, float* sum) {
  constexpr int64_t kBlock = 4096;
  parallel_for((size + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t first = block * kBlock, last = std::min(size, first + kBlock);
    std::fill(sum + first, sum + last, 0.0F);
    for (int64_t b = 0; b < B; ++b)
      for (int64_t i = first; i < last; ++i) sum[i] += parts[b * size + i];
  });
}

}  // namespace

void linear_recurrence_forward_cpu(const RecurrenceInputs& in, const RecurrenceOutputs& out) {
  if (in.L == 1 && in.h0 != nullptr && out.h != nullptr && in.starts == nullptr) return decode(in, out);
  parallel_for(HWY_DYNAMIC_DISPATCH(task_count)(in), [&](int64_t task) {
    const FlushDenormals flush;
    HWY_DYNAMIC_DISPATCH(forward_task)(in, out, task);
  });
}

void linear_recurrence_backward_cpu(const RecurrenceInputs& in, const RecurrenceGradients& grad) {
  const int64_t orders = 2 * in.D * in.N;
  RecurrenceGradients partial = grad;
  hwy::AlignedFreeUniquePtr<float[]> parts;
  if (in.B != 1) {
    parts = hwy::AllocateAligned<float>(std::max<int64_t>(1, in.B * (2 * orders + in.D)));
    partial.dq = parts.get();
    partial.dc = partial.dq + in.B * orders;
    partial.dskip = partial.dc + in.B * orders;
  }
  parallel_for(HWY_DYNAMIC_DISPATCH(task_count)(in), [&](int64_t task) {
    const FlushDenormals flush;
    HWY_DYNAMIC_DISPATCH(backward_task)(in, partial, task);
  });
  if (in.B == 1) return;
  sum_rows(partial.dq, in.B, orders, grad.dq);
  sum_rows(partial.dc, in.B, orders, grad.dc);
  sum_rows(partial.dskip, in.B, in.D, grad.dskip);
}

}  // namespace megalodon::ops
#endif
