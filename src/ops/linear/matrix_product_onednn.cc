// One primitive per kind and shape, made when first needed: choosing and generating a kernel takes milliseconds.
#include <array>
#include <csignal>
#include <cstddef>
#include <dnnl.hpp>
#include <map>
#include <memory>
#include <unordered_map>

#include "base/check.h"
#include "ops/linear/matrix_product.h"

namespace megalodon::ops {
namespace {

using dnnl::memory;
using Type = memory::data_type;
using Order = memory::format_tag;

const dnnl::engine& engine() {
  static const dnnl::engine cpu(dnnl::engine::kind::cpu, 0);
  return cpu;
}

Type type_of(const Tensor& tensor) {
  const auto type = tensor.scalar_type();
  check(type == torch::kFloat32 || type == torch::kBFloat16, "[matrix_product] expected float32 or bfloat16, got {}",
        toString(type));
  return type == torch::kFloat32 ? Type::f32 : Type::bf16;
}

memory::desc rows(int64_t height, int64_t width, Type type) {
  return {{height, width}, type, Order::ab};
}

// What oneDNN 3 calls otherwise than 2.

Type type_of(const memory::desc& description) {
#if DNNL_VERSION_MAJOR >= 3
  return description.get_data_type();
#else
  return description.data_type();
#endif
}

int64_t extent(const memory::desc& description, size_t axis) {
#if DNNL_VERSION_MAJOR >= 3
  return description.get_dims()[axis];
#else
  return description.dims()[axis];
#endif
}

/// bias may be empty.
dnnl::matmul::primitive_desc matmul_of(const memory::desc& a, const memory::desc& b, const memory::desc& bias,
                                       const memory::desc& out, const dnnl::primitive_attr& attributes) {
#if DNNL_VERSION_MAJOR >= 3
  return {engine(), a, b, bias, out, attributes};
#else
  return {{a, b, bias, out}, attributes, engine()};
#endif
}

/// w_any has the weights' sizes; db may be empty.
dnnl::inner_product_backward_weights weight_gradient_of(const memory::desc& x, const memory::desc& w_any,
                                                        const memory::desc& dw, const memory::desc& db,
                                                        const memory::desc& dy) {
  using Forward = dnnl::inner_product_forward::primitive_desc;
  using Backward = dnnl::inner_product_backward_weights::primitive_desc;
  constexpr auto kTraining = dnnl::prop_kind::forward_training;
#if DNNL_VERSION_MAJOR >= 3
  return Backward(engine(), x, dw, db, dy, Forward(engine(), kTraining, x, w_any, dy));
#else
  return Backward({x, dw, db, dy}, engine(), Forward({kTraining, x, w_any, dy}, engine()));
#endif
}

/// Of which each is contiguous.
memory::desc apart_rows(int64_t height, int64_t width, Type type, int64_t stride) {
  return {{height, width}, type, {stride, 1}};
}

/// Itself, where rows or columns lie in one piece, as products and reorderings want it; otherwise a copy.
Tensor dense(const Tensor& matrix) {
  return matrix.is_contiguous() || matrix.t().is_contiguous() ? matrix : matrix.contiguous();
}

/// Of a dense float32 matrix.
memory::desc order_of(const Tensor& matrix) {
  return {{matrix.size(0), matrix.size(1)}, Type::f32, {matrix.stride(0), matrix.stride(1)}};
}

memory wrap(const memory::desc& description, const Tensor& tensor) {
  return {description, engine(), tensor.data_ptr()};
}

/// oneDNN's generated kernels (2.6) use their workspace as the stack: a signal handled inside one would write its frame
/// into whatever lies below that on the heap. A handler that asks for it (SA_ONSTACK, as Python's do) runs here
/// instead, where the thread has no such stack yet. Threads of a parallel loop have none: signals for the process go to
/// its main thread as long as that takes them.
class SignalStack {
 public:
  SignalStack() {
    stack_t present;
    if (sigaltstack(nullptr, &present) != 0 || (present.ss_flags & SS_DISABLE) == 0) return;
    constexpr size_t kSize = 64 << 10;  // the registers of AMX alone are 8 KiB
    memory_ = std::make_unique<std::byte[]>(kSize);
    const stack_t own = {.ss_sp = memory_.get(), .ss_flags = 0, .ss_size = kSize};
    sigaltstack(&own, nullptr);
  }
  ~SignalStack() {
    stack_t present;
    const bool ours = memory_ && sigaltstack(nullptr, &present) == 0 && present.ss_sp == memory_.get();
    const stack_t none = {.ss_sp = nullptr, .ss_flags = SS_DISABLE, .ss_size = 0};
    if (ours) sigaltstack(&none, nullptr);
  }
  SignalStack(const SignalStack&) = delete;
  SignalStack& operator=(const SignalStack&) = delete;

 private:
  std::unique_ptr<std::byte[]> memory_;
};

void execute(const dnnl::primitive& primitive, const std::unordered_map<int, memory>& arguments) {
  thread_local const SignalStack signal_stack;
  thread_local dnnl::stream stream(engine());
  primitive.execute(stream, arguments);
  stream.wait();
}

/// Sizes, types and whatever else a primitive depends on.
using Key = std::array<int64_t, 9>;

/// Primitives by what tells them apart. Lengths of texts may vary without end, so that it starts over when it is full.
/// One for every thread: a primitive's scratchpad belongs to the thread that made it. A primitive is also made for a
/// number of threads, and goes on with that number.
template <class Primitive>
class Cache {
 public:
  template <class Make>
  Primitive get(const Key& sizes, const Make& make) {
    const std::pair key(at::get_num_threads(), sizes);
    if (const auto found = entries_.find(key); found != entries_.end()) return found->second;
    constexpr size_t kMost = 1024;
    if (entries_.size() == kMost) entries_.clear();
    return entries_.emplace(key, make()).first->second;
  }

 private:
  std::map<std::pair<int, Key>, Primitive> entries_;
};

int64_t number(Type type) {
  return static_cast<int64_t>(type);
}

/// out = a b (+ bias) (+ addend of that type, unless undef).
dnnl::matmul::primitive_desc product(const memory::desc& b, const memory::desc& out_MN, bool bias, Type addend) {
  const int64_t M = extent(out_MN, 0), K = extent(b, 0), N = extent(b, 1);
  const auto a_MK = rows(M, K, type_of(b));
  dnnl::primitive_attr attributes;
  if (addend != Type::undef) {
    dnnl::post_ops add;
    add.append_binary(dnnl::algorithm::binary_add, rows(M, N, addend));
    attributes.set_post_ops(add);
  }
  return matmul_of(a_MK, b, bias ? rows(1, N, Type::f32) : memory::desc(), out_MN, attributes);
}

/// Chosen for products of many rows; those of any other number read the same.
memory::desc packed_order(int64_t K, int64_t N, Type type) {
  thread_local Cache<memory::desc> cache;
  constexpr int64_t kRows = 2048;
  return cache.get({K, N, number(type)}, [&] {
    return product(memory::desc({K, N}, type, Order::any), rows(kRows, N, type), false, Type::undef).weights_desc();
  });
}

class OnednnFactor final : public PackedMatrix::Factor {
 public:
  /// `kind` 0: oneDNN's order; 1: rows; 2: columns; 3: blocks.
  OnednnFactor(Tensor kept, const memory::desc& order, int64_t kind, torch::ScalarType rounded_to)
      : kept_(std::move(kept)), order_(order), kind_(kind), rounded_to_(rounded_to) {}
  void multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N, const Tensor& addend_MN) const override;

 private:
  Tensor kept_;  // the numbers' memory
  memory::desc order_;
  int64_t kind_;
  torch::ScalarType rounded_to_;
};

}  // namespace

torch::ScalarType bfloat16_product_type() {
  static const bool native = [] {
    const auto needed = static_cast<unsigned>(dnnl::cpu_isa::avx512_core_bf16);
    return (static_cast<unsigned>(dnnl::get_effective_cpu_isa()) & needed) == needed;
  }();
  return native ? torch::kBFloat16 : torch::kFloat32;
}

FactorPtr pack_cpu(const Tensor& b_KN, torch::ScalarType type) {
  const int64_t K = b_KN.size(0), N = b_KN.size(1);
  const bool low = type == torch::kBFloat16 && bfloat16_product_type() == torch::kBFloat16;
  // Rounded here where the processor multiplies in float32; by the reordering where it takes bfloat16.
  const Tensor plain = dense((low ? b_KN.detach() : b_KN.detach().to(type)).to(torch::kFloat32));
  const memory::desc order = packed_order(K, N, low ? Type::bf16 : Type::f32);
  const Tensor kept = torch::empty({static_cast<int64_t>(order.get_size())}, torch::kUInt8);
  memory source = wrap(order_of(plain), plain), target = wrap(order, kept);
  execute(dnnl::reorder(source, target), {{DNNL_ARG_FROM, source}, {DNNL_ARG_TO, target}});
  return std::make_shared<OnednnFactor>(kept, order, 0, type);
}

FactorPtr wrap_cpu(const Tensor& b_KN) {
  check(type_of(b_KN) == Type::f32, "[matrix_product] expected float32, got {}", toString(b_KN.scalar_type()));
  const Tensor kept = dense(b_KN.detach());
  return std::make_shared<OnednnFactor>(kept, order_of(kept), kept.is_contiguous() ? 1 : 2, torch::kFloat32);
}

FactorPtr wrap_blocks_cpu(const Tensor& bytes, int64_t K, int64_t N) {
  const memory::desc order({K, N}, Type::bf16, Order::BA16a64b2a);
  check(bytes.is_contiguous() && bytes.nbytes() >= order.get_size(),
        "[matrix_product] expected {} contiguous bytes for [{},{}], got {}", order.get_size(), K, N, bytes.nbytes());
  return std::make_shared<OnednnFactor>(bytes, order, 3, torch::kBFloat16);
}

namespace {

void OnednnFactor::multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                            const Tensor& addend_MN) const {
  const memory::desc& order = order_;
  const int64_t M = a_MK.size(0), K = extent(order, 0), N = extent(order, 1);
  check(a_MK.size(1) == K && out_MN.sizes() == torch::IntArrayRef({M, N}) && (N <= 1 || out_MN.stride(1) == 1),
        "[matrix_product] expected a [{},{}] and an out [{},{}] of contiguous rows, got {} and {}", M, K, M, N,
        c10::str(a_MK.sizes()), c10::str(out_MN.sizes()));
  check(!addend_MN.defined() || addend_MN.sizes() == out_MN.sizes(), "[matrix_product] expected an addend {}, got {}",
        c10::str(out_MN.sizes()), addend_MN.defined() ? c10::str(addend_MN.sizes()) : "");
  if (out_MN.numel() == 0) return;
  if (type_of(order) == Type::f32 && out_MN.scalar_type() == torch::kBFloat16) {  // for processors without bfloat16
    const Tensor wide_MN = torch::empty(out_MN.sizes(), out_MN.options().dtype(torch::kFloat32));
    multiply(wide_MN, a_MK, bias_N, addend_MN);
    Tensor(out_MN).copy_(wide_MN);
    return;
  }
  const auto held = type_of(order) == Type::bf16 ? torch::kBFloat16 : torch::kFloat32;
  const Tensor a = a_MK.to(rounded_to_).to(held).contiguous();
  const bool wide = held == torch::kFloat32;  // then an addend of bfloat16 may be more than the processor can take
  const Tensor addend = !addend_MN.defined() ? Tensor() : (wide ? addend_MN.to(held) : addend_MN).contiguous();
  const Type out = type_of(out_MN), added = addend.defined() ? type_of(addend) : Type::undef;
  const int64_t stride = M == 1 ? N : out_MN.stride(0);
  const memory::desc out_order = apart_rows(M, N, out, stride);
  thread_local Cache<dnnl::matmul> cache;
  const Key key = {M, K, N, number(type_of(order)), kind_, number(out), stride, bias_N.defined(), number(added)};
  const auto primitive =
      cache.get(key, [&] { return dnnl::matmul(product(order, out_order, bias_N.defined(), added)); });
  std::unordered_map<int, memory> arguments = {{DNNL_ARG_SRC, wrap(rows(M, K, type_of(order)), a)},
                                               {DNNL_ARG_WEIGHTS, wrap(order, kept_)},
                                               {DNNL_ARG_DST, wrap(out_order, out_MN)}};
  if (bias_N.defined()) arguments.emplace(DNNL_ARG_BIAS, wrap(rows(1, N, Type::f32), bias_N));
  if (addend.defined())
    arguments.emplace(DNNL_ARG_ATTR_MULTIPLE_POST_OP(0) | DNNL_ARG_SRC_1, wrap(rows(M, N, added), addend));
  execute(primitive, arguments);
}

void set_weight_gradient(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI) {
  thread_local Cache<dnnl::inner_product_backward_weights> cache;
  const int64_t M = x_MI.size(0), I = x_MI.size(1), O = dy_MO.size(1);
  const Type type = type_of(x_MI);
  const bool bias = db_O.defined();
  const auto x = rows(M, I, type), dy = rows(M, O, type), dw = rows(O, I, Type::f32);
  const memory::desc db({O}, Type::f32, Order::a);
  const auto primitive = cache.get({M, I, O, number(type), bias}, [&] {
    return weight_gradient_of(x, memory::desc({O, I}, type, Order::any), dw, bias ? db : memory::desc(), dy);
  });
  std::unordered_map<int, memory> arguments = {
      {DNNL_ARG_SRC, wrap(x, x_MI)}, {DNNL_ARG_DIFF_DST, wrap(dy, dy_MO)}, {DNNL_ARG_DIFF_WEIGHTS, wrap(dw, dw_OI)}};
  if (bias) arguments.emplace(DNNL_ARG_DIFF_BIAS, wrap(db, db_O));
  execute(primitive, arguments);
}

void add_weight_gradient(const Tensor& dw_OI, const Tensor& dy_MO, const Tensor& x_MI) {
  thread_local Cache<dnnl::matmul> cache;
  const int64_t M = x_MI.size(0), I = x_MI.size(1), O = dy_MO.size(1);
  const Type type = type_of(x_MI);
  const memory::desc dy({O, M}, type, Order::ba), x = rows(M, I, type), dw = rows(O, I, Type::f32);
  const auto product = cache.get({M, I, O, number(type)}, [&] {
    dnnl::post_ops add;
    add.append_sum();
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(add);
    return dnnl::matmul(matmul_of(dy, x, memory::desc(), dw, attributes));
  });
  execute(product,
          {{DNNL_ARG_SRC, wrap(dy, dy_MO)}, {DNNL_ARG_WEIGHTS, wrap(x, x_MI)}, {DNNL_ARG_DST, wrap(dw, dw_OI)}});
}

}  // namespace

void weight_gradient_cpu(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                         bool accumulate) {
  const auto type = x_MI.scalar_type() == torch::kBFloat16 ? bfloat16_product_type() : torch::kFloat32;
  const Tensor dy = dy_MO.to(type).contiguous(), x = x_MI.to(type).contiguous();
  check(!(accumulate && db_O.defined()), "[matrix_product] only dw can be added to");
  check(dw_OI.scalar_type() == torch::kFloat32 && dw_OI.is_contiguous() && dy.size(0) == x.size(0) &&
            dw_OI.sizes() == torch::IntArrayRef({dy.size(1), x.size(1)}),
        "[matrix_product] expected a contiguous float32 dw [{},{}], got {} {}", dy.size(1), x.size(1),
        toString(dw_OI.scalar_type()), c10::str(dw_OI.sizes()));
  if (x.size(0) == 0 || dw_OI.numel() == 0) {
    if (!accumulate) Tensor(dw_OI).zero_();
    if (db_O.defined()) Tensor(db_O).copy_(dy.sum(0));
  } else if (accumulate) {
    add_weight_gradient(dw_OI, dy, x);
  } else {
    set_weight_gradient(dw_OI, db_O, dy, x);
  }
}

}  // namespace megalodon::ops
