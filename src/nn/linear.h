// A linear layer of a model: its parameters, and copies of its weight as products want them.
#pragma once

#include <string>
#include <vector>

#include "ops/linear/linear.h"

namespace megalodon::nn {

using ops::Precision;

/// Of the inputs and outputs of products inside a layer; the residual stream keeps x's.
inline torch::ScalarType activation_type(const Tensor& x, Precision precision) {
  return precision == Precision::kBfloat16 ? torch::kBFloat16 : x.scalar_type();
}

class Linear {
 public:
  Linear() = default;
  /// Registers "<path>.weight" [out,in] and, where asked for, "<path>.bias" [out] with the module.
  Linear(torch::nn::Module& module, const std::string& path, int64_t in, int64_t out, bool with_bias);
  /// For a weight that has another use too, such as an embedding.
  explicit Linear(const Tensor& weight) : weight(weight), shared_(true) {}

  /// For inference: products read this matrix from now on, on its device. The weight keeps its shape and, where it has
  /// another use, its numbers and its place; otherwise its memory is given back, and it is where the matrix is.
  void fix(ops::FixedMatrix matrix);
  /// Whether the weight has another use.
  bool shared() const { return shared_; }

  /// x [..,in] to [..,out], of the addend's dtype where there is one to add, otherwise of x's.
  Tensor operator()(const Tensor& x, Precision precision, const Tensor& addend = {}) const {
    return ops::linears(x, {plus(addend)}, precision)[0];
  }
  /// This layer with something to add to its outputs, or nothing: for ops::linears().
  ops::LinearLayer plus(const Tensor& addend = {}) const { return {weight, bias, packed, addend}; }

  Tensor weight, bias;  // bias is undefined where there is none
  ops::PackedWeightPtr packed = c10::make_intrusive<ops::PackedWeight>();

 private:
  bool shared_ = false;
};

/// Weights as init_linear() has them, each with a key of its own, and biases zero.
void init_linears(const std::vector<Linear*>& layers, const std::string& mode, uint64_t key);

}  // namespace megalodon::nn
