// Which library makes a product: the one of the device.
#include "ops/linear/matrix_product.h"

#include "base/check.h"

namespace megalodon::ops {
namespace {

/// True on a GPU that the build has products for.
bool multiplies_on_gpu(const Tensor& x) {
  check(x.is_cpu() || (MEGALODON_CUDA && x.is_cuda()), "[matrix_product] no products on {} in this build",
        x.device().str());
  return x.is_cuda();
}

}  // namespace

#if !MEGALODON_CUDA
FactorPtr wrap_cuda(const Tensor&) {
  fail("[matrix_product] this build has no products on a GPU");
}
void weight_gradient_cuda(const Tensor&, const Tensor&, const Tensor&, const Tensor&, bool) {
  fail("[matrix_product] this build has no products on a GPU");
}
#endif

PackedMatrix::PackedMatrix(const Tensor& b_KN, torch::ScalarType type)
    : factor_(multiplies_on_gpu(b_KN) ? wrap_cuda(b_KN.detach().to(type)) : pack_cpu(b_KN, type)) {}

PackedMatrix PackedMatrix::as_it_is(const Tensor& b_KN) {
  PackedMatrix matrix;
  matrix.factor_ = multiplies_on_gpu(b_KN) ? wrap_cuda(b_KN.detach()) : wrap_cpu(b_KN);
  return matrix;
}

PackedMatrix PackedMatrix::in_blocks(const Tensor& bytes, int64_t K, int64_t N) {
  PackedMatrix matrix;
  matrix.factor_ = wrap_blocks_cpu(bytes, K, N);
  return matrix;
}

void weight_gradient(const Tensor& dw_OI, const Tensor& db_O, const Tensor& dy_MO, const Tensor& x_MI,
                     bool accumulate) {
  multiplies_on_gpu(dy_MO) ? weight_gradient_cuda(dw_OI, db_O, dy_MO, x_MI, accumulate)
                           : weight_gradient_cpu(dw_OI, db_O, dy_MO, x_MI, accumulate);
}

}  // namespace megalodon::ops
