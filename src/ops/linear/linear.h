// The linear layer of all architectures, and the one place that knows in which precision its products are made.
#pragma once

#include <mutex>
#include <vector>

#include "base/compat.h"
#include "ops/fixed_matrix/fixed_matrix.h"
#include "ops/linear/matrix_product.h"
#include "ops/number.h"

namespace megalodon::ops {

/// Copies of one weight [O,I] in the order in which products read it (on a GPU, which reads any, one in the type of the
/// products): made when first needed, and again when the weight has been written to, so that all products between two
/// optimizer steps share them. Writing is what raises the
/// tensor's version: every in-place operation does, and so must code that writes through data_ptr(). Safe to use from
/// several threads.
class PackedWeight final : public torch::CustomClassHolder {
 public:
  /// Wᵀ for y = x Wᵀ. A pass that is not going to be differentiated gets float32 weights as they are: a copy would
  /// double the memory of inference for a tenth of the time.
  PackedMatrix for_forward(const Tensor& w_OI, Precision precision, bool differentiated);
  /// W for dx = dy W.
  PackedMatrix for_backward(const Tensor& w_OI, Precision precision);

  /// For inference: from now on products read this, whatever their precision, and of the weight only its shape and its
  /// device count, which is the matrix' too.
  void fix(FixedMatrix matrix);
  const FixedMatrix& fixed() const { return fixed_; }
  /// The numbers that products stand for: those of the weight, or of what was fixed. For reference compositions.
  Tensor numbers(const Tensor& w_OI) const;

 private:
  template <class T>
  struct Copy {
    T value{};
    bool made = false;
    const void* data = nullptr;
    uint32_t version = 0;
    Precision precision = Precision::kFloat32;
  };
  template <class T, class Make>
  T get(Copy<T>& copy, const Tensor& w, Precision precision, const Make& make);
  /// On a GPU: w, or its copy in the type of the products.
  Tensor rounded(const Tensor& w_OI, Precision precision);

  std::mutex mutex_;
  Copy<PackedMatrix> forward_, backward_;
  Copy<Tensor> rounded_;
  FixedMatrix fixed_;
  FactorPtr fixed_factor_;
};

using PackedWeightPtr = c10::intrusive_ptr<PackedWeight>;

/// The dtype of the inputs of products.
torch::ScalarType product_type(Precision precision);

/// y = x Wᵀ [+ b] [+ addend].
struct LinearLayer {
  Tensor weight;                // [out,in]
  Tensor bias = {};             // [out], or undefined
  PackedWeightPtr packed = {};  // keeps the weight's copies from call to call; may be null
  Tensor addend = {};           // [..,out], or undefined
};

constexpr size_t kMostLinearLayers = 3;

/// One to three layers of the same x [..,in]: their gradients with respect to x are summed up while they are made. y is
/// of the addend's dtype, where there is one, otherwise of x's. With kBfloat16 weights and biases are float32, and x
/// and addend float32 or bfloat16; a gradient is of the dtype of what it belongs to.
std::vector<Tensor> linears(const Tensor& x, const std::vector<LinearLayer>& layers, Precision precision);

/// y = x Wᵀ [+ b].
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Precision precision);

namespace ref {
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Precision precision);
}

}  // namespace megalodon::ops
