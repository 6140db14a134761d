// Products by the tensor library, for builds without oneDNN. Its own loop over bfloat16 matrices, which serves small
// ones and processors without AVX-512, rounds every partial sum (libtorch 1.13: 512 ones add up to 256): products of
// bfloat16 numbers are made in float32, where they are exact.
#include "base/check.h"
#include "ops/linear/matrix_product.h"

namespace megalodon::ops {

struct PackedMatrix::Impl {
  Tensor b_KN;  // float32
  torch::ScalarType rounded_to;
};

torch::ScalarType bfloat16_product_type() {
  return torch::kFloat32;
}

PackedMatrix::PackedMatrix(const Tensor& b_KN, torch::ScalarType type)
    : impl_(std::make_shared<Impl>(Impl{b_KN.detach().to(type).to(torch::kFloat32).clone(), type})) {}

PackedMatrix PackedMatrix::as_it_is(const Tensor& b_KN) {
  PackedMatrix matrix;
  matrix.impl_ = std::make_shared<Impl>(Impl{b_KN.detach(), torch::kFloat32});
  return matrix;
}

void PackedMatrix::multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                            const Tensor& addend_MN) const {
  Tensor product = at::mm(a_MK.to(impl_->rounded_to).to(torch::kFloat32), impl_->b_KN);
  for (const Tensor& addend : {bias_N, addend_MN})
    if (addend.defined()) product.add_(addend);
  Tensor(out_MN).copy_(product);
}

void weight_gradient(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                     bool accumulate) {
  const Tensor dy = dy_MO.to(torch::kFloat32);
  Tensor dw = dw_OI;
  dw.addmm_(dy.t(), x_MI.to(torch::kFloat32), accumulate ? 1 : 0);
  if (db_O.defined()) Tensor(db_O).copy_(dy.sum(0));
}

}  // namespace megalodon::ops
