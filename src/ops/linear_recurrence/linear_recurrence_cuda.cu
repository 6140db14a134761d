// The linear recurrence on a GPU; equations and gradients in linear_recurrence_kernel.h.
//
// Parallel over batch rows, features, groups of eight orders and blocks of time. A thread keeps eight states and their
// coefficients in registers and walks through its block; the lanes that share a feature add up what they have of y or
// dx. Forward: (1) every block's state from a zero start, (2) the states before the blocks, by a short scan over
// blocks, (3) outputs. One block (short sequences, decoding) needs (3) alone.
//
// The backward pass needs h_(t-1) and g_t together for dq, and they run in opposite directions. It does not store or
// reverse either: with w_t = dh_t/dq,
//
//   w_t = [t continues] (q w_(t-1) + h_(t-1))        dq = conj(c) Σ_t conj(w_t) dy_t  (+ conj(w_L) dh)
//
// is a scan in the direction of h, so that one pass forward (h, w, dq, dc, dskip) and one backward (g, dx) do not meet.
// Carried in registers against the direction of time is r_t = [t continues] conj(q) g_t, and g_t = conj(c) dy_t +
// r_(t+1), where r_(L) is dh.
//
// Work per step, feature and order, in multiply-adds: forward 4 + 6, backward 8 + 12 + 6 + 7. Numbers read or written
// per step and feature: 3 forward, 6 backward. At N = 16 that is bound by arithmetic (a float32 multiply-add a byte is
// what a H100 balances), so blocks are made long enough for the scan over them to vanish, not longer.
#include <type_traits>

#include "ops/cuda_kernel.cuh"
#include "ops/linear_recurrence/linear_recurrence_kernel.h"

namespace megalodon::ops {
namespace {

using namespace cuda;

constexpr const char* kOp = "linear_recurrence";
constexpr int kThreads = 128;  // of a CUDA block: kThreads / lanes neighbouring features

// States of each kind that a thread keeps: the more, the less of its time goes into everything else. Of h and w, and
// what is added up of both, sixteen would not fit.
constexpr int kOrders = 16, kOrdersOfCoefficients = 8;

/// How the work is cut up.
struct Tiling {
  int64_t B, L, D, N;
  int64_t steps, blocks;  // of time: all but the last of a row have `steps`

  /// Lanes that share a feature: N / orders, rounded up to a power of two.
  __host__ __device__ int lanes(int orders) const {
    int count = 1;
    while (count * orders < N) count *= 2;
    return count;
  }
  /// Of features.
  __host__ __device__ int64_t tiles(int orders) const { return divide_up(D, kThreads / lanes(orders)); }
  unsigned cuda_blocks(int orders) const { return static_cast<unsigned>(B * blocks * tiles(orders)); }
  int64_t states() const { return B * blocks * D * N; }
};

Tiling make_tiling(const RecurrenceInputs& in) {
  // A few waves of resident threads: enough for the hardware to even out, as few blocks as that allows.
  constexpr int64_t kWantedThreads = 1 << 17;
  constexpr int64_t kFewestSteps = 32, kMostSteps = 512;
  Tiling tiling{in.B, in.L, in.D, in.N, kFewestSteps, 1};
  const int64_t columns = in.B * in.D * tiling.lanes(kOrders);
  while (tiling.steps < kMostSteps && columns * divide_up(in.L, 2 * tiling.steps) >= kWantedThreads) tiling.steps *= 2;
  tiling.blocks = divide_up(in.L, tiling.steps);
  return tiling;
}

/// What a thread works on.
struct Place {
  int64_t b, block, begin;  // of row b the steps from `begin`
  int64_t d;
  int steps, lanes, lane;  // orders of the lane: `orders` from lane · orders
  bool inside;             // false for threads beyond D, which repeat the last feature and write nothing

  __device__ Place(const Tiling& tiling, int orders) {
    const int64_t tiles = tiling.tiles(orders), tile = blockIdx.x % tiles, rest = blockIdx.x / tiles;
    block = rest % tiling.blocks, b = rest / tiling.blocks;
    begin = block * tiling.steps;
    steps = static_cast<int>(begin + tiling.steps < tiling.L ? tiling.steps : tiling.L - begin);
    lanes = tiling.lanes(orders);
    lane = static_cast<int>(threadIdx.x) % lanes;
    d = tile * (kThreads / lanes) + static_cast<int>(threadIdx.x) / lanes;
    inside = d < tiling.D;
    if (!inside) d = tiling.D - 1;
  }
  __device__ bool first_lane() const { return inside && lane == 0; }
  __device__ bool ends_row(const Tiling& tiling) const { return begin + steps == tiling.L; }
  /// Of this thread's feature, at the block's first step.
  __device__ int64_t first_number(const Tiling& tiling) const { return (b * tiling.L + begin) * tiling.D + d; }
};

/// A thread's complex numbers.
template <int kOrders>
struct Complexes {
  float re[kOrders], im[kOrders];

  __device__ void fill(float value) {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) re[m] = im[m] = value;
  }
  /// From N complex numbers; those of orders beyond N are 0.
  __device__ void load(const float* numbers, int64_t N, int lane) {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) {
      const int64_t n = lane * kOrders + m;
      const float2 value = n < N ? reinterpret_cast<const float2*>(numbers)[n] : float2{0, 0};
      re[m] = value.x, im[m] = value.y;
    }
  }
  __device__ void store(float* numbers, int64_t N, int lane) const {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) {
      const int64_t n = lane * kOrders + m;
      if (n < N) reinterpret_cast<float2*>(numbers)[n] = {re[m], im[m]};
    }
  }
  /// this = q · this + x
  __device__ void advance(const Complexes& q, float x) {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) {
      const float real = fmaf(q.re[m], re[m], fmaf(-q.im[m], im[m], x));
      im[m] = fmaf(q.re[m], im[m], q.im[m] * re[m]);
      re[m] = real;
    }
  }
  /// this = q · this + h
  __device__ void advance(const Complexes& q, const Complexes& h) {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) {
      const float real = fmaf(q.re[m], re[m], fmaf(-q.im[m], im[m], h.re[m]));
      im[m] = fmaf(q.re[m], im[m], fmaf(q.im[m], re[m], h.im[m]));
      re[m] = real;
    }
  }
  /// this = conj(q) · this
  __device__ void retreat(const Complexes& q) {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) {
      const float real = fmaf(q.re[m], re[m], q.im[m] * im[m]);
      im[m] = fmaf(q.re[m], im[m], -q.im[m] * re[m]);
      re[m] = real;
    }
  }
  /// this += conj(c) · x
  __device__ void add_conjugate(const Complexes& c, float x) {
#pragma unroll
    for (int m = 0; m < kOrders; ++m) {
      re[m] = fmaf(c.re[m], x, re[m]);
      im[m] = fmaf(-c.im[m], x, im[m]);
    }
  }
  /// Re Σ c · this
  __device__ float weighted(const Complexes& c) const {
    float sum[4] = {0, 0, 0, 0};  // one would make each addition wait for the one before
#pragma unroll
    for (int m = 0; m < kOrders; ++m) sum[m % 4] = fmaf(c.re[m], re[m], fmaf(-c.im[m], im[m], sum[m % 4]));
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  __device__ float real_sum() const {
    float sum[4] = {0, 0, 0, 0};
#pragma unroll
    for (int m = 0; m < kOrders; ++m) sum[m % 4] += re[m];
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
};

/// The sum over the lanes of a feature, in each of them.
__device__ float lane_sum(float x, int lanes) {
  for (int distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

/// Calls step(i, values) for each step i of the block, in order or backwards, with its numbers of the columns (which
/// begin at the block's first step, rows `stride` apart). They are loaded some steps before they are needed.
template <bool kBackwards, int kColumns, class T, class Step>
__device__ __forceinline__ void walk(const T* const (&columns)[kColumns], int64_t stride, int steps,
                                     const Step& step) {
  constexpr int kAhead = 8 / kColumns;
  const int64_t stride_on = kBackwards ? -stride : stride;
  const T* at[kColumns];
#pragma unroll
  for (int c = 0; c < kColumns; ++c) at[c] = columns[c] + (kBackwards ? (steps - 1) * stride : 0);
  T coming[kAhead][kColumns];
  const auto load = [&] {
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) {
        coming[i][c] = *at[c];
        at[c] += stride_on;
      }
  };
  const auto index = [&](int done) { return kBackwards ? steps - 1 - done : done; };
  const int whole = steps / kAhead;  // batches
  if (whole > 0) load();
  for (int batch = 0; batch < whole; ++batch) {
    float now[kAhead][kColumns];
#pragma unroll
    for (int i = 0; i < kAhead; ++i)
#pragma unroll
      for (int c = 0; c < kColumns; ++c) now[i][c] = to_float(coming[i][c]);
    if (batch + 1 < whole) load();
#pragma unroll
    for (int i = 0; i < kAhead; ++i) step(index(batch * kAhead + i), now[i]);
  }
  for (int done = whole * kAhead; done < steps; ++done) {
    float now[kColumns];
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      now[c] = to_float(*at[c]);
      at[c] += stride_on;
    }
    step(index(done), now);
  }
}

struct Arrays {
  const float *q, *c, *skip;
  const bool* starts;

  explicit Arrays(const RecurrenceInputs& in) : q(in.q), c(in.c), skip(in.skip), starts(in.starts) {}
};

/// Whether a document begins at a step of the block.
template <bool kStarts>
struct Starts {
  const bool* flags;

  __device__ Starts(const Arrays& arrays, const Tiling& tiling, const Place& at)
      : flags(kStarts ? arrays.starts + at.b * tiling.L + at.begin : nullptr) {}
  __device__ bool operator()(int i) const { return kStarts && flags[i]; }
};

/// Where the state of a block is kept.
__device__ int64_t state_offset(const Tiling& tiling, const Place& at) {
  return ((at.b * tiling.blocks + at.block) * tiling.D + at.d) * tiling.N * 2;
}

/// What each block leaves behind when it begins with zeros, h and where wanted w, and whether a document begins in it.
template <class T, bool kStarts, bool kDerivative>
__global__ void __launch_bounds__(kThreads, 3)
    summarize_kernel(Tiling tiling, Arrays arrays, const T* x, float* h_blocks, float* w_blocks, bool* fresh) {
  const Place at(tiling, kOrders);
  const Starts<kStarts> begins(arrays, tiling, at);
  Complexes<kOrders> q, h, w;
  q.load(arrays.q + at.d * tiling.N * 2, tiling.N, at.lane);
  h.fill(0);
  w.fill(0);
  bool any = false;
  const T* const columns[] = {x + at.first_number(tiling)};
  walk<false>(columns, tiling.D, at.steps, [&](int i, const float* values) {
    if (begins(i)) {
      h.fill(0);
      w.fill(0);
      any = true;
    } else if constexpr (kDerivative) {
      w.advance(q, h);
    }
    h.advance(q, values[0]);
  });
  if (!at.inside) return;
  h.store(h_blocks + state_offset(tiling, at), tiling.N, at.lane);
  if constexpr (kDerivative) w.store(w_blocks + state_offset(tiling, at), tiling.N, at.lane);
  if (at.d == 0 && at.lane == 0) fresh[at.b * tiling.blocks + at.block] = any;
}

/// The same against time: r of each block's first step when nothing comes behind its last.
template <class T, bool kStarts>
__global__ void __launch_bounds__(kThreads, 3)
    summarize_backwards_kernel(Tiling tiling, Arrays arrays, const T* dy, float* r_blocks) {
  const Place at(tiling, kOrders);
  const Starts<kStarts> begins(arrays, tiling, at);
  Complexes<kOrders> q, c, r;
  q.load(arrays.q + at.d * tiling.N * 2, tiling.N, at.lane);
  c.load(arrays.c + at.d * tiling.N * 2, tiling.N, at.lane);
  r.fill(0);
  const T* const columns[] = {dy + at.first_number(tiling)};
  walk<true>(columns, tiling.D, at.steps, [&](int i, const float* values) {
    r.add_conjugate(c, values[0]);
    if (begins(i))
      r.fill(0);
    else
      r.retreat(q);
  });
  if (at.inside) r.store(r_blocks + state_offset(tiling, at), tiling.N, at.lane);
}

struct Complex {
  double re, im;
};
__device__ Complex operator*(Complex a, Complex b) { return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re}; }
__device__ Complex operator+(Complex a, Complex b) { return {a.re + b.re, a.im + b.im}; }
__device__ Complex operator*(double a, Complex b) { return {a * b.re, a * b.im}; }
__device__ Complex wide(float2 a) { return {a.x, a.y}; }
__device__ float2 narrow(Complex a) { return {static_cast<float>(a.re), static_cast<float>(a.im)}; }

__device__ Complex power(Complex base, int64_t exponent) {
  Complex result{1, 0};
  for (; exponent > 0; exponent /= 2) {
    if (exponent % 2 == 1) result = result * base;
    base = base * base;
  }
  return result;
}

/// Turns what blocks leave behind into what is there before them; one thread for each row, feature and order. w_blocks
/// may be null.
__global__ void scan_blocks_kernel(Tiling tiling, const float2* q, const float2* h0, const bool* fresh,
                                   float2* h_blocks, float2* w_blocks) {
  const int64_t DN = tiling.D * tiling.N, id = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (id >= tiling.B * DN) return;
  const int64_t b = id / DN, dn = id % DN;
  const Complex decay = power(wide(q[dn]), tiling.steps);
  const Complex slope = static_cast<double>(tiling.steps) * power(wide(q[dn]), tiling.steps - 1);
  Complex h = h0 != nullptr ? wide(h0[id]) : Complex{0, 0}, w{0, 0};
  constexpr int kAhead = 8;  // loads under way at once
  for (int64_t first = 0; first < tiling.blocks; first += kAhead) {
    float2 h_after[kAhead], w_after[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t k = b * tiling.blocks + first + i;
      if (first + i >= tiling.blocks) break;
      h_after[i] = h_blocks[k * DN + dn];
      if (w_blocks != nullptr) w_after[i] = w_blocks[k * DN + dn];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      const int64_t k = b * tiling.blocks + first + i;
      if (first + i >= tiling.blocks) break;
      h_blocks[k * DN + dn] = narrow(h);
      if (w_blocks != nullptr) {
        w_blocks[k * DN + dn] = narrow(w);
        w = fresh[k] ? wide(w_after[i]) : decay * w + slope * h + wide(w_after[i]);
      }
      h = fresh[k] ? wide(h_after[i]) : decay * h + wide(h_after[i]);
    }
  }
}

/// The same against time for r: into what comes from behind each block. Also writes dh0, where that is wanted.
__global__ void scan_blocks_backwards_kernel(Tiling tiling, const float2* q, const float2* dh, const bool* fresh,
                                             float2* r_blocks, float2* dh0) {
  const int64_t DN = tiling.D * tiling.N, id = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (id >= tiling.B * DN) return;
  const int64_t b = id / DN, dn = id % DN;
  const Complex back{q[dn].x, -static_cast<double>(q[dn].y)};
  const Complex decay = power(back, tiling.steps);
  const Complex last_decay = power(back, tiling.L - (tiling.blocks - 1) * tiling.steps);
  Complex r = dh != nullptr ? wide(dh[id]) : Complex{0, 0};
  constexpr int kAhead = 8;
  for (int64_t first = 0; first < tiling.blocks; first += kAhead) {
    float2 before[kAhead];
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= tiling.blocks) break;
      before[i] = r_blocks[((b + 1) * tiling.blocks - 1 - first - i) * DN + dn];
    }
#pragma unroll
    for (int i = 0; i < kAhead; ++i) {
      if (first + i >= tiling.blocks) break;
      const int64_t k = (b + 1) * tiling.blocks - 1 - first - i;
      r_blocks[k * DN + dn] = narrow(r);
      r = fresh[k] ? wide(before[i]) : (first + i == 0 ? last_decay : decay) * r + wide(before[i]);
    }
  }
  if (dh0 != nullptr) dh0[id] = narrow(r);
}

/// The states before a block: from the scan, or in the only block of a row from h0.
template <int kOrders>
__device__ void load_before(Complexes<kOrders>& h, const Tiling& tiling, const Place& at, const float* blocks, const float* h0) {
  if (blocks != nullptr)
    h.load(blocks + state_offset(tiling, at), tiling.N, at.lane);
  else if (h0 != nullptr)
    h.load(h0 + (at.b * tiling.D + at.d) * tiling.N * 2, tiling.N, at.lane);
  else
    h.fill(0);
}

template <class T, bool kStarts>
__global__ void __launch_bounds__(kThreads, 3) forward_kernel(Tiling tiling, Arrays arrays, const T* x, const float* h0,
                                                           const float* h_blocks, T* y, float* h_last) {
  const Place at(tiling, kOrders);
  const Starts<kStarts> begins(arrays, tiling, at);
  Complexes<kOrders> q, c, h;
  q.load(arrays.q + at.d * tiling.N * 2, tiling.N, at.lane);
  c.load(arrays.c + at.d * tiling.N * 2, tiling.N, at.lane);
  load_before(h, tiling, at, h_blocks, h0);
  const float skip = arrays.skip[at.d];
  const int64_t first = at.first_number(tiling);
  const T* const columns[] = {x + first};
  walk<false>(columns, tiling.D, at.steps, [&](int i, const float* values) {
    if (begins(i)) h.fill(0);
    h.advance(q, values[0]);
    const float sum = lane_sum(h.weighted(c), at.lanes);
    if (at.first_lane()) y[first + i * tiling.D] = from_float<T>(fmaf(skip, values[0], sum));
  });
  if (h_last != nullptr && at.inside && at.ends_row(tiling))
    h.store(h_last + (at.b * tiling.D + at.d) * tiling.N * 2, tiling.N, at.lane);
}

/// One block's part of dq, dc and dskip.
template <class T, bool kStarts>
__global__ void __launch_bounds__(kThreads, 4)
    coefficient_gradients_kernel(Tiling tiling, Arrays arrays, const T* x, const T* dy, const float* h0,
                                 const float* h_blocks, const float* w_blocks, const float* dh, float* dq_blocks,
                                 float* dc_blocks, float* dskip_blocks) {
  const Place at(tiling, kOrdersOfCoefficients);
  const Starts<kStarts> begins(arrays, tiling, at);
  Complexes<kOrdersOfCoefficients> q, h, w, dq, dc;
  q.load(arrays.q + at.d * tiling.N * 2, tiling.N, at.lane);
  load_before(h, tiling, at, h_blocks, h0);
  load_before(w, tiling, at, w_blocks, nullptr);
  dq.fill(0);
  dc.fill(0);
  float dskip = 0;
  const int64_t first = at.first_number(tiling);
  const T* const columns[] = {x + first, dy + first};
  walk<false>(columns, tiling.D, at.steps, [&](int i, const float* values) {
    if (begins(i)) {
      h.fill(0);
      w.fill(0);
    } else {
      w.advance(q, h);
    }
    h.advance(q, values[0]);
    dq.add_conjugate(w, values[1]);
    dc.add_conjugate(h, values[1]);
    dskip = fmaf(values[0], values[1], dskip);
  });
  if (!at.inside) return;
  Complexes<kOrdersOfCoefficients> c, last;
  c.load(arrays.c + at.d * tiling.N * 2, tiling.N, at.lane);
  last.fill(0);
  if (dh != nullptr && at.ends_row(tiling))
    last.load(dh + (at.b * tiling.D + at.d) * tiling.N * 2, tiling.N, at.lane);
#pragma unroll
  for (int m = 0; m < kOrdersOfCoefficients; ++m) {  // dq = conj(c) dq + conj(w) dh
    const float re = c.re[m] * dq.re[m] + c.im[m] * dq.im[m] + w.re[m] * last.re[m] + w.im[m] * last.im[m];
    dq.im[m] = c.re[m] * dq.im[m] - c.im[m] * dq.re[m] + w.re[m] * last.im[m] - w.im[m] * last.re[m];
    dq.re[m] = re;
  }
  dq.store(dq_blocks + state_offset(tiling, at), tiling.N, at.lane);
  dc.store(dc_blocks + state_offset(tiling, at), tiling.N, at.lane);
  if (at.lane == 0) dskip_blocks[(at.b * tiling.blocks + at.block) * tiling.D + at.d] = dskip;
}

template <class T, bool kStarts>
__global__ void __launch_bounds__(kThreads, 3) input_gradient_kernel(Tiling tiling, Arrays arrays, const T* dy,
                                                                  const float* dh, const float* r_blocks, T* dx,
                                                                  float* dh0) {
  const Place at(tiling, kOrders);
  const Starts<kStarts> begins(arrays, tiling, at);
  Complexes<kOrders> q, c, r;
  q.load(arrays.q + at.d * tiling.N * 2, tiling.N, at.lane);
  c.load(arrays.c + at.d * tiling.N * 2, tiling.N, at.lane);
  load_before(r, tiling, at, r_blocks, dh);
  const float skip = arrays.skip[at.d];
  const int64_t first = at.first_number(tiling);
  const T* const columns[] = {dy + first};
  walk<true>(columns, tiling.D, at.steps, [&](int i, const float* values) {
    r.add_conjugate(c, values[0]);  // now g_t
    const float sum = lane_sum(r.real_sum(), at.lanes);
    if (at.first_lane()) dx[first + i * tiling.D] = from_float<T>(fmaf(skip, values[0], sum));
    if (begins(i))
      r.fill(0);
    else
      r.retreat(q);
  });
  if (dh0 != nullptr && r_blocks == nullptr && at.inside)
    r.store(dh0 + (at.b * tiling.D + at.d) * tiling.N * 2, tiling.N, at.lane);
}

/// total[i] = Σ_k parts[k, i], in order.
__global__ void sum_parts_kernel(const float* parts, int64_t count, int64_t size, float* total) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= size) return;
  double sum = 0;
  for (int64_t k = 0; k < count; ++k) sum += parts[k * size + i];
  total[i] = static_cast<float>(sum);
}

unsigned blocks_for(int64_t threads) { return static_cast<unsigned>(divide_up(threads, kThreads)); }

/// Calls f(T{}, std::bool_constant<whether documents begin anywhere>).
template <class F>
void with_types(const RecurrenceInputs& in, const F& f) {
  with_type(in.type, [&](auto number) {
    if (in.starts != nullptr)
      f(number, std::true_type{});
    else
      f(number, std::false_type{});
  });
}

float2* pairs(float* numbers) { return reinterpret_cast<float2*>(numbers); }
const float2* pairs(const float* numbers) { return reinterpret_cast<const float2*>(numbers); }

}  // namespace

void linear_recurrence_forward_cuda(const RecurrenceInputs& in, const RecurrenceOutputs& out, CudaQueue& queue) {
  if (in.B == 0 || in.D == 0) return;
  const Tiling tiling = make_tiling(in);
  const Arrays arrays(in);
  with_types(in, [&](auto number, auto has_starts) {
    using T = decltype(number);
    constexpr bool kStarts = decltype(has_starts)::value;
    const T* x = static_cast<const T*>(in.x);
    const unsigned grid = tiling.cuda_blocks(kOrders);
    float* h_blocks = nullptr;
    if (tiling.blocks > 1) {
      h_blocks = queue.scratch_of<float>(2 * tiling.states());
      bool* fresh = queue.scratch_of<bool>(tiling.B * tiling.blocks);
      launch(kOp, queue, {grid, kThreads}, summarize_kernel<T, kStarts, false>, tiling, arrays, x, h_blocks, nullptr,
             fresh);
      launch(kOp, queue, {blocks_for(in.B * in.D * in.N), kThreads}, scan_blocks_kernel, tiling, pairs(in.q),
             pairs(in.h0), fresh, pairs(h_blocks), nullptr);
    }
    launch(kOp, queue, {grid, kThreads}, forward_kernel<T, kStarts>, tiling, arrays, x, in.h0, h_blocks,
           static_cast<T*>(out.y), out.h);
  });
}

void linear_recurrence_backward_cuda(const RecurrenceInputs& in, const RecurrenceGradients& grad, CudaQueue& queue) {
  if (in.D == 0) return;
  if (in.B == 0) {  // sums of nothing
    const auto zero = [&](float* numbers, int64_t size) {
      check(cudaMemsetAsync(numbers, 0, static_cast<size_t>(size) * sizeof(float), queue.stream()), kOp);
    };
    zero(grad.dq, 2 * in.D * in.N);
    zero(grad.dc, 2 * in.D * in.N);
    return zero(grad.dskip, in.D);
  }
  const Tiling tiling = make_tiling(in);
  const Arrays arrays(in);
  with_types(in, [&](auto number, auto has_starts) {
    using T = decltype(number);
    constexpr bool kStarts = decltype(has_starts)::value;
    const T *x = static_cast<const T*>(in.x), *dy = static_cast<const T*>(grad.dy);
    const unsigned grid = tiling.cuda_blocks(kOrders);
    float *h_blocks = nullptr, *w_blocks = nullptr, *r_blocks = nullptr;
    if (tiling.blocks > 1) {
      h_blocks = queue.scratch_of<float>(2 * tiling.states());
      w_blocks = queue.scratch_of<float>(2 * tiling.states());
      r_blocks = queue.scratch_of<float>(2 * tiling.states());
      bool* fresh = queue.scratch_of<bool>(tiling.B * tiling.blocks);
      const unsigned scan_grid = blocks_for(in.B * in.D * in.N);
      launch(kOp, queue, {grid, kThreads}, summarize_kernel<T, kStarts, true>, tiling, arrays, x, h_blocks, w_blocks,
             fresh);
      launch(kOp, queue, {scan_grid, kThreads}, scan_blocks_kernel, tiling, pairs(in.q), pairs(in.h0), fresh,
             pairs(h_blocks), pairs(w_blocks));
      launch(kOp, queue, {grid, kThreads}, summarize_backwards_kernel<T, kStarts>, tiling, arrays, dy, r_blocks);
      launch(kOp, queue, {scan_grid, kThreads}, scan_blocks_backwards_kernel, tiling, pairs(in.q), pairs(grad.dh),
             fresh, pairs(r_blocks), pairs(grad.dh0));
    }
    float *dq_blocks = queue.scratch_of<float>(2 * tiling.states()),
          *dc_blocks = queue.scratch_of<float>(2 * tiling.states()),
          *dskip_blocks = queue.scratch_of<float>(in.B * tiling.blocks * in.D);
    launch(kOp, queue, {tiling.cuda_blocks(kOrdersOfCoefficients), kThreads}, coefficient_gradients_kernel<T, kStarts>,
           tiling, arrays, x, dy, in.h0, h_blocks, w_blocks, grad.dh, dq_blocks, dc_blocks, dskip_blocks);
    launch(kOp, queue, {grid, kThreads}, input_gradient_kernel<T, kStarts>, tiling, arrays, dy, grad.dh, r_blocks,
           static_cast<T*>(grad.dx), grad.dh0);
    const int64_t parts = in.B * tiling.blocks;
    const auto sum = [&](const float* from, int64_t size, float* to) {
      launch(kOp, queue, {blocks_for(size), kThreads}, sum_parts_kernel, from, parts, size, to);
    };
    sum(dq_blocks, 2 * in.D * in.N, grad.dq);
    sum(dc_blocks, 2 * in.D * in.N, grad.dc);
    sum(dskip_blocks, in.D, grad.dskip);
  });
}

}  // namespace megalodon::ops
