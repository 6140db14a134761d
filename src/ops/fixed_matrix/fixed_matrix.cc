#include "ops/fixed_matrix/fixed_matrix.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "ops/linear/matrix_product.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

constexpr std::array<const char*, 4> kNames = {"float32", "bfloat16", "q8", "q4"};

int64_t bytes_of(const FixedView& view) {
  return view.blocks() * view.block_bytes();
}

/// By the CPU's library: of float32 and bfloat16 alone, which it reads faster than fixed_product_cpu() once there are
/// many rows of x. Float32 numbers are in another order there.
void multiply_many_rows(const Tensor& y, const Tensor& x_float32, const FixedMatrix& w, const Tensor& bias,
                        const Tensor& addend) {
  const bool low = w.type() == FixedType::kBfloat16;
  const Tensor x = low ? x_float32.to(torch::kBFloat16) : x_float32;
  if (low && bfloat16_product_type() == torch::kBFloat16) {  // stored as those products read it
    PackedMatrix::in_blocks(w.bytes(), w.inputs(), w.outputs()).multiply(y, x, bias, addend);
    return;
  }
  constexpr int64_t kNumbers = 1 << 20;  // of a tile: 4 MiB, and some 0.1 ms of work for every 32 rows of x
  const int64_t most = std::max(kNumbers / w.inputs() / 64, int64_t{1}) * 64;
  const auto part = [](const Tensor& t, int64_t axis, int64_t first, int64_t size) {
    return t.defined() ? t.narrow(axis, first, size) : t;
  };
  for (int64_t first = 0; first < w.outputs(); first += most) {
    const int64_t rows = std::min(most, w.outputs() - first), whole = (rows + 63) / 64 * 64;
    const Tensor tile_IO = torch::empty({w.inputs(), whole}, torch::kFloat32);
    fixed_unpack_cpu(w.view(), first, whole, tile_IO.data_ptr<float>());
    PackedMatrix::as_it_is(tile_IO.narrow(1, 0, rows))
        .multiply(part(y, 1, first, rows), x.to(torch::kFloat32), part(bias, 0, first, rows),
                  part(addend, 1, first, rows));
  }
}

void check_inputs(const Tensor& x, const FixedMatrix& w, const Tensor& bias, const Tensor& addend) {
  check(w.defined(), "[fixed_linear] the matrix is undefined");
  for (const Tensor& t : {x, bias, addend})
    if (t.defined())
      check(t.scalar_type() == torch::kFloat32 && t.device() == w.device(),
            "[fixed_linear] expected float32 tensors on the matrix' device, {}, got {} on {}", w.device().str(),
            toString(t.scalar_type()), t.device().str());
  check(x.dim() >= 1 && x.size(-1) == w.inputs(), "[fixed_linear] expected x [..,{}], got {}", w.inputs(),
        c10::str(x.sizes()));
  if (bias.defined())
    check(bias.sizes() == torch::IntArrayRef({w.outputs()}), "[fixed_linear] expected a bias [{}], got {}", w.outputs(),
          c10::str(bias.sizes()));
  auto y_sizes = x.sizes().vec();
  y_sizes.back() = w.outputs();
  if (addend.defined())
    check(addend.sizes() == torch::IntArrayRef(y_sizes),
          "[fixed_linear] the addend must have the shape of y, {}, got {}", c10::str(y_sizes),
          c10::str(addend.sizes()));
}

}  // namespace

const char* name_of(FixedType type) {
  return kNames[static_cast<size_t>(type)];
}

FixedType fixed_type(const std::string& name) {
  const auto* found = std::find(kNames.begin(), kNames.end(), name);
  check(found != kNames.end(), "[fixed_matrix] expected float32, bfloat16, q8 or q4, got \"{}\"", name);
  return static_cast<FixedType>(found - kNames.begin());
}

FixedMatrix::FixedMatrix(FixedType type, int64_t O, int64_t I, Tensor bytes)
    : type_(type), O_(O), I_(I), bytes_(std::move(bytes)) {
  check(O > 0 && I > 0 && bytes_.scalar_type() == torch::kUInt8 && (bytes_.is_cpu() || bytes_.is_cuda()) &&
            bytes_.is_contiguous() && bytes_.numel() == bytes_of({type, O, I, nullptr}),
        "[fixed_matrix] expected positive sizes, and of {} [{},{}] {} contiguous bytes on the CPU or an NVIDIA GPU, "
        "got {} {} on {}",
        name_of(type), O, I, bytes_of({type, O, I, nullptr}), toString(bytes_.scalar_type()), c10::str(bytes_.sizes()),
        bytes_.device().str());
  const int alignment = bytes_.is_cpu() ? 4 : 16;
  check(reinterpret_cast<uintptr_t>(bytes_.data_ptr()) % alignment == 0,
        "[fixed_matrix] expected bytes at a multiple of {} in memory", alignment);
}

FixedMatrix fix_matrix(const Tensor& w_OI, FixedType type) {
  const bool low = w_OI.scalar_type() == torch::kBFloat16;
  check(w_OI.dim() == 2 && w_OI.numel() > 0 && (low || w_OI.scalar_type() == torch::kFloat32) && w_OI.is_cpu(),
        "[fixed_matrix] expected a float32 or bfloat16 matrix on the CPU that is not empty, got {} {} on {}",
        toString(w_OI.scalar_type()), c10::str(w_OI.sizes()), w_OI.device().str());
  const Tensor w = w_OI.detach().contiguous();
  const FixedView view = {type, w.size(0), w.size(1), nullptr};
  const Tensor bytes = torch::empty({bytes_of(view)}, torch::kUInt8);
  auto* to = bytes.data_ptr<uint8_t>();
  const bool fit = low ? fixed_store_cpu(reinterpret_cast<const Bfloat16*>(w.data_ptr<at::BFloat16>()), view, to)
                       : fixed_store_cpu(w.data_ptr<float>(), view, to);
  check(fit, "[fixed_matrix] expected finite weights of magnitudes up to 1e38");
  return {type, w.size(0), w.size(1), bytes};
}

bool is_finite(const FixedMatrix& w) {
  const FixedMatrix on_cpu = w.to(torch::kCPU);
  return fixed_is_finite_cpu(on_cpu.view());
}

Tensor restore_matrix(const FixedMatrix& w) {
  const FixedMatrix on_cpu = w.to(torch::kCPU);
  const Tensor restored = torch::empty({w.outputs(), w.inputs()}, torch::kFloat32);
  fixed_restore_cpu(on_cpu.view(), restored.data_ptr<float>());
  return restored.to(w.device());
}

void fixed_linear_into(const Tensor& y, const Tensor& x, const FixedMatrix& w, const Tensor& bias,
                       const Tensor& addend) {
  check_inputs(x, w, bias, addend);
  torch::NoGradGuard no_grad;
  if (!has_kernels(x)) {
    Tensor(y).copy_(ref::fixed_linear(x, w, bias, addend));
    return;
  }
  const Tensor x_MI = x.reshape({-1, w.inputs()}).contiguous();
  const Tensor addend_MO = addend.defined() ? addend.contiguous().view({-1, w.outputs()}) : addend;
  const Tensor bias_O = bias.defined() ? bias.contiguous() : bias;
  const bool codes = w.type() == FixedType::kQ8 || w.type() == FixedType::kQ4;
  if (x.is_cpu() && x_MI.size(0) > kFewRows && !codes)
    return multiply_many_rows(y.view({-1, w.outputs()}), x_MI, w, bias_O, addend_MO);
  const auto numbers = [](const Tensor& t) { return t.defined() ? t.data_ptr<float>() : nullptr; };
  run_kernel(x, MEGALODON_KERNELS(fixed_product),
             {w.view(), x_MI.size(0), numbers(x_MI), numbers(bias_O), numbers(addend_MO), numbers(y)});
}

Tensor fixed_linear(const Tensor& x, const FixedMatrix& w, const Tensor& bias, const Tensor& addend) {
  auto y_sizes = x.sizes().vec();
  y_sizes.back() = w.outputs();
  const Tensor y = torch::empty(y_sizes, x.options());
  fixed_linear_into(y, x, w, bias, addend);
  return y;
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("fix_matrix(Tensor w, str type) -> Tensor",
        [](const Tensor& w, const std::string& type) { return fix_matrix(w, fixed_type(type)).bytes(); });
  m.def("fixed_linear(Tensor x, Tensor bytes, str type, int outputs, Tensor? bias=None, Tensor? addend=None) -> Tensor",
        [](const Tensor& x, const Tensor& bytes, const std::string& type, int64_t outputs, const OptionalTensor& bias,
           const OptionalTensor& addend) {
          const FixedMatrix w(fixed_type(type), outputs, x.size(-1), bytes);
          return fixed_linear(x, w, or_undefined(bias), or_undefined(addend));
        });
}

}  // namespace megalodon::ops
