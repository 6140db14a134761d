// Products on a GPU: what cuBLASLt takes, made of tensors.
#include "base/check.h"
#include "ops/device.h"
#include "ops/linear/cublas_product.h"
#include "ops/linear/matrix_product.h"

namespace megalodon::ops {
namespace {

/// Of a matrix of which either axis is contiguous.
CudaMatrix matrix(const Tensor& t) {
  CudaMatrix m;
  m.data = t.data_ptr();
  m.type = number_type(t);
  m.transposed = t.stride(1) != 1 && t.size(1) != 1;
  m.stride = std::max<int64_t>(m.transposed ? t.stride(1) : t.stride(0), m.transposed ? t.size(0) : t.size(1));
  return m;
}

Tensor dense(const Tensor& t) {
  const bool rows = t.stride(1) == 1 && t.stride(0) >= t.size(1),
             columns = t.stride(0) == 1 && t.stride(1) >= t.size(0);
  return rows || columns ? t : t.contiguous();
}

class CudaFactor final : public PackedMatrix::Factor {
 public:
  explicit CudaFactor(const Tensor& b_KN) : b_KN_(dense(b_KN)) {}

  void multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                const Tensor& addend_MN) const override {
    check(a_MK.size(1) == b_KN_.size(0) && out_MN.size(0) == a_MK.size(0) && out_MN.size(1) == b_KN_.size(1) &&
              out_MN.is_contiguous(),
          "[matrix_product] expected out = a b, got {}, {} and {}", c10::str(out_MN.sizes()), c10::str(a_MK.sizes()),
          c10::str(b_KN_.sizes()));
    if (out_MN.numel() == 0) return;
    const bool widens = b_KN_.scalar_type() == torch::kFloat32 && out_MN.scalar_type() != torch::kFloat32;
    if (widens) {  // no such product: out is narrower than what is multiplied
      const Tensor wide_MN = torch::empty(out_MN.sizes(), out_MN.options().dtype(torch::kFloat32));
      multiply(wide_MN, a_MK, bias_N, addend_MN);
      Tensor(out_MN).copy_(wide_MN);
      return;
    }
    const auto like_out = [&](const Tensor& t) { return t.defined() ? t.to(out_MN.scalar_type()).contiguous() : t; };
    const Tensor a = dense(a_MK.to(b_KN_.scalar_type())), bias = like_out(bias_N), addend = like_out(addend_MN);
    CudaProduct product;
    product.M = a.size(0), product.K = a.size(1), product.N = b_KN_.size(1);
    product.a = matrix(a), product.b = matrix(b_KN_);
    product.d = out_MN.data_ptr(), product.d_type = number_type(out_MN), product.d_stride = product.N;
    if (addend.defined()) product.c = addend.data_ptr(), product.c_stride = product.N, product.beta = 1;
    if (bias.defined()) product.bias = bias.data_ptr();
    with_cuda_queue(out_MN, [&](CudaQueue& queue) { cuda_product(product, queue); });
  }

 private:
  Tensor b_KN_;
};

}  // namespace

FactorPtr wrap_cuda(const Tensor& b_KN) {
  return std::make_shared<CudaFactor>(b_KN);
}

void weight_gradient_cuda(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                          bool accumulate) {
  check(!(accumulate && db_O.defined()), "[matrix_product] only dw can be added to");
  check(dw_OI.scalar_type() == torch::kFloat32 && dw_OI.is_contiguous() && dy_MO.size(0) == x_MI.size(0) &&
            dw_OI.size(0) == dy_MO.size(1) && dw_OI.size(1) == x_MI.size(1),
        "[matrix_product] expected a contiguous float32 dw [{},{}], got {} {}", dy_MO.size(1), x_MI.size(1),
        toString(dw_OI.scalar_type()), c10::str(dw_OI.sizes()));
  if (db_O.defined()) Tensor(db_O).copy_(dy_MO.sum(0, /*keepdim=*/false, torch::kFloat32));
  if (x_MI.size(0) == 0 || dw_OI.numel() == 0) {
    if (!accumulate) Tensor(dw_OI).zero_();
    return;
  }
  const Tensor dy_OM = dense(dy_MO).t(), x = dense(x_MI);
  CudaProduct product;
  product.M = dy_OM.size(0), product.K = dy_OM.size(1), product.N = x.size(1);
  product.a = matrix(dy_OM), product.b = matrix(x);
  product.d = dw_OI.data_ptr(), product.d_stride = product.N;
  if (accumulate) product.c = product.d, product.c_stride = product.N, product.beta = 1;
  with_cuda_queue(dw_OI, [&](CudaQueue& queue) { cuda_product(product, queue); });
}

}  // namespace megalodon::ops
