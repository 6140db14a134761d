#include "ops/linear/linear.h"

#include <array>

#include "base/check.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

/// What the layers of one call are, apart from their tensors.
struct Plan final : torch::CustomClassHolder {
  struct Layer {
    PackedWeightPtr packed;
    bool weight_gradient, bias_gradient, addend_gradient;
  };
  Precision precision;
  torch::ScalarType x_type;
  bool x_gradient, differentiated;
  std::vector<Layer> layers;
};

using PlanPtr = c10::intrusive_ptr<Plan>;

/// Of a layer's y.
torch::ScalarType y_type(const Tensor& addend, torch::ScalarType x_type) {
  return addend.defined() ? addend.scalar_type() : x_type;
}

class LinearFunction : public torch::autograd::Function<LinearFunction> {
 public:
  /// One layer's weight, bias and addend after the other. Keeps x as the products read it: in half of float32's memory
  /// where they are of bfloat16.
  static variable_list forward(AutogradContext* context, const Tensor& x_TI, const OptionalTensor& w0,
                               const OptionalTensor& b0, const OptionalTensor& a0, const OptionalTensor& w1,
                               const OptionalTensor& b1, const OptionalTensor& a1, const OptionalTensor& w2,
                               const OptionalTensor& b2, const OptionalTensor& a2, const PlanPtr& plan) {
    const std::array<LinearLayer, kMostLinearLayers> layers = {
        LinearLayer{or_undefined(w0), or_undefined(b0), {}, or_undefined(a0)},
        LinearLayer{or_undefined(w1), or_undefined(b1), {}, or_undefined(a1)},
        LinearLayer{or_undefined(w2), or_undefined(b2), {}, or_undefined(a2)}};
    const Tensor x = x_TI.to(product_type(plan->precision)).contiguous();
    variable_list outputs, saved = {x};
    for (size_t i = 0; i < plan->layers.size(); ++i) {
      const auto& [weight, bias, packed, addend] = layers[i];
      const auto options = x.options().dtype(y_type(addend, plan->x_type));
      outputs.push_back(torch::empty({x.size(0), weight.size(0)}, options));
      plan->layers[i]
          .packed->for_forward(weight, plan->precision, plan->differentiated)
          .multiply(outputs.back(), x, bias, addend);
      saved.push_back(weight);
    }
    context->save_for_backward(saved);
    context->saved_data["plan"] = torch::IValue::make_capsule(plan);
    return outputs;
  }

  static variable_list backward(AutogradContext* context, const variable_list& gradients) {
    refuse_second_derivatives("linear");
    const auto saved = context->get_saved_variables();
    const auto plan = c10::static_intrusive_pointer_cast<Plan>(context->saved_data["plan"].toCapsule());
    const Tensor& x_TI = saved[0];
    const size_t count = plan->layers.size();
    variable_list results(1 + 3 * kMostLinearLayers + 1);
    Tensor dx_TI;  // of the layers so far
    for (size_t i = 0; i < count; ++i) {
      const auto& layer = plan->layers[i];
      const Tensor &w_OI = saved[1 + i], dy_TO = gradients[i].to(x_TI.scalar_type()).contiguous();
      if (plan->x_gradient) {
        const Tensor before = dx_TI;
        // On a GPU the passes over memory cost more than the sums in bfloat16 lose.
        const auto type = i + 1 == count || dy_TO.is_cuda() ? plan->x_type : torch::kFloat32;
        dx_TI = torch::empty(x_TI.sizes(), x_TI.options().dtype(type));
        layer.packed->for_backward(w_OI, plan->precision).multiply(dx_TI, dy_TO, {}, before);
      }
      Tensor &dw_OI = results[1 + 3 * i], &db_O = results[2 + 3 * i];
      if (layer.bias_gradient) db_O = torch::empty({w_OI.size(0)}, w_OI.options());
      if (layer.weight_gradient) {
        dw_OI = torch::empty(w_OI.sizes(), w_OI.options());
        weight_gradient(dw_OI, db_O, dy_TO, x_TI);
      } else if (layer.bias_gradient) {
        db_O = dy_TO.sum(0, /*keepdim=*/false, torch::kFloat32);
      }
      if (layer.addend_gradient) results[3 + 3 * i] = gradients[i];
    }
    results[0] = dx_TI;
    return results;
  }
};

/// What PackedWeight::fix() was given, as the products of one kind or another ask for it.
class FixedFactor final : public PackedMatrix::Factor {
 public:
  explicit FixedFactor(FixedMatrix matrix) : matrix_(std::move(matrix)) {}
  void multiply(const Tensor& out_MN, const Tensor& a_MK, const Tensor& bias_N,
                const Tensor& addend_MN) const override {
    const auto wide = [](const Tensor& t) { return t.defined() ? t.to(torch::kFloat32) : t; };
    const bool direct = out_MN.scalar_type() == torch::kFloat32 && out_MN.is_contiguous();
    const Tensor y = direct ? out_MN : torch::empty(out_MN.sizes(), out_MN.options().dtype(torch::kFloat32));
    fixed_linear_into(y, wide(a_MK), matrix_, bias_N, wide(addend_MN));
    if (!direct) Tensor(out_MN).copy_(y);
  }

 private:
  FixedMatrix matrix_;
};

/// Float32 weights where there are kernels; anything else takes the reference.
bool use_products(const Tensor& x, Precision precision) {
  return (x.scalar_type() == torch::kFloat32 || precision == Precision::kBfloat16) && has_kernels(x);
}

void check_inputs(const Tensor& x, const std::vector<LinearLayer>& layers, Precision precision) {
  check(!layers.empty() && layers.size() <= kMostLinearLayers, "[linear] expected 1 to {} layers, got {}",
        kMostLinearLayers, layers.size());
  for (const auto& [weight, bias, packed, addend] : layers) {
    check(x.dim() >= 1 && weight.dim() == 2 && x.size(-1) == weight.size(1),
          "[linear] the last axis of x must be the weight's second, got x {} and weight {}", c10::str(x.sizes()),
          c10::str(weight.sizes()));
    if (bias.defined())
      check(bias.dim() == 1 && bias.size(0) == weight.size(0) && bias.scalar_type() == weight.scalar_type(),
            "[linear] the bias must be [{}] of the weight's dtype, {}, got {} {}", weight.size(0),
            toString(weight.scalar_type()), toString(bias.scalar_type()), c10::str(bias.sizes()));
    for (const Tensor* t : {&weight, &bias, &addend})
      check(!t->defined() || t->device() == x.device(),
            "[linear] weight, bias and addend must be on x's device, {}, got {}", x.device().str(),
            t->defined() ? t->device().str() : "");
    auto y_sizes = x.sizes().vec();
    y_sizes.back() = weight.size(0);
    if (addend.defined())
      check(addend.sizes() == torch::IntArrayRef(y_sizes), "[linear] the addend must have the shape of y, {}, got {}",
            c10::str(y_sizes), c10::str(addend.sizes()));
    if (precision == Precision::kFloat32) {
      check(weight.scalar_type() == x.scalar_type(), "[linear] x and weight must be of one dtype, got {} and {}",
            toString(x.scalar_type()), toString(weight.scalar_type()));
      continue;
    }
    const auto is_low = [](const Tensor& t) { return t.scalar_type() == torch::kBFloat16; };
    const auto is_full = [](const Tensor& t) { return t.scalar_type() == torch::kFloat32; };
    check(is_full(weight) && (is_full(x) || is_low(x)) && (!addend.defined() || is_full(addend) || is_low(addend)),
          "[linear] products in bfloat16 are made from a float32 weight and float32 or bfloat16 x, got weight {} and x "
          "{}",
          toString(weight.scalar_type()), toString(x.scalar_type()));
  }
}

PlanPtr make_plan(const Tensor& x, const std::vector<LinearLayer>& layers, Precision precision) {
  const auto wanted = [](const Tensor& t) { return t.defined() && is_differentiated({t}); };
  auto plan = c10::make_intrusive<Plan>();
  plan->precision = precision;
  plan->x_type = x.scalar_type();
  plan->x_gradient = plan->differentiated = wanted(x);
  for (const LinearLayer& layer : layers) {
    plan->layers.push_back({layer.packed ? layer.packed : c10::make_intrusive<PackedWeight>(), wanted(layer.weight),
                            wanted(layer.bias), wanted(layer.addend)});
    plan->differentiated = plan->differentiated || wanted(layer.weight);
  }
  return plan;
}

/// One product after the other, with nothing kept for a backward pass.
std::vector<Tensor> undifferentiated_layers(const Tensor& x, const std::vector<LinearLayer>& layers,
                                            Precision precision) {
  const Tensor x_TI = x.reshape({-1, x.size(-1)});
  auto shape = x.sizes().vec();
  std::vector<Tensor> outputs;
  for (const auto& [weight, bias, packed, addend] : layers) {
    shape.back() = weight.size(0);
    const Tensor y = torch::empty(shape, x.options().dtype(y_type(addend, x.scalar_type())));
    const auto matrix = (packed ? packed : c10::make_intrusive<PackedWeight>())
                            ->for_forward(weight, precision, /*differentiated=*/false);
    const auto flat = [&](const Tensor& t) { return t.defined() ? t.reshape({-1, weight.size(0)}) : t; };
    matrix.multiply(flat(y), x_TI, bias.defined() ? bias.contiguous() : bias, flat(addend));
    outputs.push_back(y);
  }
  return outputs;
}

}  // namespace

torch::ScalarType product_type(Precision precision) {
  return precision == Precision::kBfloat16 ? torch::kBFloat16 : torch::kFloat32;
}

void PackedWeight::fix(FixedMatrix matrix) {
  fixed_ = std::move(matrix);
  fixed_factor_ = std::make_shared<FixedFactor>(fixed_);
}

Tensor PackedWeight::numbers(const Tensor& w_OI) const {
  return fixed_.defined() ? restore_matrix(fixed_) : w_OI;
}

PackedMatrix PackedWeight::for_forward(const Tensor& w_OI, Precision precision, bool differentiated) {
  if (fixed_factor_ != nullptr) {
    check(!differentiated, "[linear] a fixed matrix has no gradients");
    return PackedMatrix(fixed_factor_);
  }
  if (w_OI.is_cuda()) return PackedMatrix::as_it_is(rounded(w_OI, precision).t());
  if (precision == Precision::kFloat32 && !differentiated) return PackedMatrix::as_it_is(w_OI.t());
  return get(forward_, w_OI, precision, [&] { return PackedMatrix(w_OI.t(), product_type(precision)); });
}

PackedMatrix PackedWeight::for_backward(const Tensor& w_OI, Precision precision) {
  if (w_OI.is_cuda()) return PackedMatrix::as_it_is(rounded(w_OI, precision));
  return get(backward_, w_OI, precision, [&] { return PackedMatrix(w_OI, product_type(precision)); });
}

Tensor PackedWeight::rounded(const Tensor& w_OI, Precision precision) {
  if (w_OI.scalar_type() == product_type(precision)) return w_OI.detach();
  return get(rounded_, w_OI, precision, [&] { return w_OI.detach().to(product_type(precision)); });
}

template <class T, class Make>
T PackedWeight::get(Copy<T>& copy, const Tensor& w, Precision precision, const Make& make) {
  const std::lock_guard lock(mutex_);
  const auto version = static_cast<uint32_t>(w._version());
  if (!copy.made || copy.data != w.data_ptr() || copy.version != version || copy.precision != precision)
    copy = {make(), true, w.data_ptr(), version, precision};
  return copy.value;
}

std::vector<Tensor> linears(const Tensor& x, const std::vector<LinearLayer>& layers, Precision precision) {
  check_inputs(x, layers, precision);
  std::vector<Tensor> outputs;
  if (!use_products(x, precision)) {
    for (const auto& [weight, bias, packed, addend] : layers) {
      const Tensor w_OI = packed ? packed->numbers(weight) : weight;
      const Tensor y = ref::linear(x, w_OI, bias, precision).to(y_type(addend, x.scalar_type()));
      outputs.push_back(addend.defined() ? y + addend : y);
    }
    return outputs;
  }
  if (!torch::GradMode::is_enabled()) return undifferentiated_layers(x, layers, precision);
  std::array<OptionalTensor, 3 * kMostLinearLayers> inputs;
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto& [weight, bias, packed, addend] = layers[i];
    inputs[3 * i] = weight;
    if (bias.defined()) inputs[3 * i + 1] = bias.contiguous();
    if (addend.defined()) inputs[3 * i + 2] = addend.reshape({-1, weight.size(0)});
  }
  const auto& [w0, b0, a0, w1, b1, a1, w2, b2, a2] = inputs;
  const auto flat = LinearFunction::apply(x.reshape({-1, x.size(-1)}), w0, b0, a0, w1, b1, a1, w2, b2, a2,
                                          make_plan(x, layers, precision));
  auto shape = x.sizes().vec();
  for (const Tensor& y : flat) {
    shape.back() = y.size(1);
    outputs.push_back(y.view(shape));
  }
  return outputs;
}

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, Precision precision) {
  return linears(x, {{.weight = weight, .bias = bias}}, precision)[0];
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("linear(Tensor x, Tensor weight, Tensor? bias=None, *, bool bfloat16=False) -> Tensor",
        [](const Tensor& x, const Tensor& weight, const OptionalTensor& bias, bool bfloat16) {
          return linear(x, weight, or_undefined(bias), bfloat16 ? Precision::kBfloat16 : Precision::kFloat32);
        });
}

}  // namespace megalodon::ops
