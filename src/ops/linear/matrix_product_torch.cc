// Products by the tensor library, for builds without oneDNN. Its own loop over bfloat16 matrices, which serves small
// ones and processors without AVX-512, rounds every partial sum (libtorch 1.13: 512 ones add up to 256): products of
// bfloat16 numbers are made in float32, where they are exact.
#include "base/check.h"
#include "ops/linear/matrix_product.h"

namespace megalodon::ops {
namespace {

class TorchFactor final : public PackedMatrix::Factor {
 public:
  /// b is float32.
  TorchFactor(Tensor b_KN, torch::ScalarType rounded_to) : b_KN_(std::move(b_KN)), rounded_to_(rounded_to) {}

  void multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                const Tensor& addend_MN) const override {
    Tensor product = at::mm(a_MK.to(rounded_to_).to(torch::kFloat32), b_KN_);
    for (const Tensor& addend : {bias_N, addend_MN})
      if (addend.defined()) product.add_(addend);
    Tensor(out_MN).copy_(product);
  }

 private:
  Tensor b_KN_;
  torch::ScalarType rounded_to_;
};

}  // namespace

torch::ScalarType bfloat16_product_type() {
  return torch::kFloat32;
}

FactorPtr pack_cpu(const Tensor& b_KN, torch::ScalarType type) {
  return std::make_shared<TorchFactor>(b_KN.detach().to(type).to(torch::kFloat32).clone(), type);
}

FactorPtr wrap_cpu(const Tensor& b_KN) {
  return std::make_shared<TorchFactor>(b_KN.detach(), torch::kFloat32);
}

FactorPtr wrap_blocks_cpu(const Tensor&, int64_t, int64_t) {
  fail("[matrix_product] this build has no products of bfloat16 numbers in blocks");
}

void weight_gradient_cpu(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                         bool accumulate) {
  const Tensor dy = dy_MO.to(torch::kFloat32);
  Tensor dw = dw_OI;
  dw.addmm_(dy.t(), x_MI.to(torch::kFloat32), accumulate ? 1 : 0);
  if (db_O.defined()) Tensor(db_O).copy_(dy.sum(0));
}

}  // namespace megalodon::ops
