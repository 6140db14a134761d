#include "ops/bench.h"

#include <algorithm>

namespace megalodon::ops::bench {
namespace {

using Function = std::function<Tensor(const Tensors&)>;

Tensor in_float64(const Tensor& t) {
  if (t.is_complex()) return t.to(torch::kComplexDouble);
  return t.is_floating_point() ? t.to(torch::kFloat64) : t;
}

Tensors as_leaves(const Tensors& inputs, size_t leaves, bool exact) {
  Tensors list;
  for (const Tensor& t : inputs) list.push_back((exact ? in_float64(t) : t).detach().clone());
  for (size_t i = 0; i < leaves; ++i) list[i].set_requires_grad(true);
  return list;
}

/// The output, and the gradients of the leaves where it has any. dy is random: of the sum of a norm's outputs, say,
/// nearly all gradients are 0, and any kernel would do.
Tensors results(const Function& f, const Tensors& inputs, size_t leaves, const Tensor& dy) {
  const Tensor y = f(inputs);
  Tensors list;
  if (leaves > 0)
    list = torch::autograd::grad({y}, Tensors(inputs.begin(), inputs.begin() + static_cast<int64_t>(leaves)), {dy});
  list.push_back(y.detach());
  return list;
}

double largest(const Tensor& t) {
  return t.numel() == 0 ? 0.0 : t.abs().max().item<double>();
}

double error_of(const Operator& op, size_t leaves) {
  const Tensors& inputs = op.checked.empty() ? op.inputs : op.checked;
  const Tensor dy = torch::randn_like(op.kernel(inputs).detach());
  const Tensors got = results(op.kernel, as_leaves(inputs, leaves, false), leaves, dy);
  const Tensors expected = results(op.reference, as_leaves(inputs, leaves, true), leaves, in_float64(dy));
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i)
    worst = std::max(worst, largest(in_float64(got[i]) - expected[i]) / std::max(largest(expected[i]), 1e-30));
  return worst;
}

void add(const Operator& op, std::vector<Case>& list) {
  list.push_back({op.name, "forward", op.shape, op.forward, op.tolerance, [op] { return error_of(op, 0); },
                  [op, inputs = as_leaves(op.inputs, 0, false)] {
                    torch::NoGradGuard no_grad;
                    op.kernel(inputs);
                  }});
  if (op.leaves == 0) return;
  const Work both = {op.forward.bytes + op.backward.bytes, op.forward.flops + op.backward.flops};
  const Tensors inputs = as_leaves(op.inputs, op.leaves, false);
  const Tensor dy = torch::randn_like(op.kernel(inputs).detach());
  list.push_back({op.name, "forward+backward", op.shape, both, op.tolerance, [op] { return error_of(op, op.leaves); },
                  [op, inputs, dy] { results(op.kernel, inputs, op.leaves, dy); }});
}

/// Made when the first operator adds its own, before main().
std::map<std::string, MakeCases>& registered() {
  static std::map<std::string, MakeCases> list;
  return list;
}

}  // namespace

std::vector<Case> cases(const std::vector<Operator>& operators, torch::Device device) {
  std::vector<Case> list;
  for (Operator op : operators) {
    for (Tensors* tensors : {&op.inputs, &op.checked})
      for (Tensor& t : *tensors) t = t.to(device);
    add(op, list);
  }
  return list;
}

bool add_cases(const char* op, MakeCases make) noexcept {
  return registered().emplace(op, make).second;
}

const std::map<std::string, MakeCases>& all_cases() {
  return registered();
}

}  // namespace megalodon::ops::bench
