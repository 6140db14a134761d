#include "ops/linear_cross_entropy/linear_cross_entropy.h"

#include <algorithm>

#include "base/check.h"
#include "ops/linear_cross_entropy/linear_cross_entropy_kernel.h"
#include "ops/registration.h"

namespace megalodon::ops {
namespace {

// A block's logits are made, read and dropped, and every block also reads all of w and adds to all of dw: 512 tokens
// give a hundred and more FLOP per byte of those, which is compute bound everywhere.
constexpr int64_t kBlockLogits = 1 << 20;
constexpr int64_t kMinBlockTokens = 512;
// A GPU does 300 FLOP in the time of reading a byte, and has room: 256 MiB of logits, or those of 4096 tokens.
constexpr int64_t kCudaBlockLogits = (int64_t{1} << 28) / static_cast<int64_t>(sizeof(float));
constexpr int64_t kCudaMinBlockTokens = 4096;

int64_t block_tokens(const Tensor& x_TD, int64_t vocabulary) {
  const bool cuda = x_TD.is_cuda();
  const int64_t logits = cuda ? kCudaBlockLogits : kBlockLogits, least = cuda ? kCudaMinBlockTokens : kMinBlockTokens;
  return std::min(x_TD.size(0), std::max(least, logits / vocabulary));
}

/// Calls use(first token, logits_TV) block after block with x w^T in float32, in memory that the next block reuses.
template <class Use>
void for_each_block(const Tensor& x_TD, const PackedMatrix& w_DV, int64_t vocabulary, const Use& use) {
  const int64_t tokens = x_TD.size(0);
  const int64_t block = block_tokens(x_TD, vocabulary);
  const Tensor logits_TV = torch::empty({block, vocabulary}, x_TD.options().dtype(torch::kFloat32));
  for (int64_t begin = 0; begin < tokens; begin += block) {
    const int64_t count = std::min(block, tokens - begin);
    const Tensor logits = logits_TV.narrow(0, 0, count);
    w_DV.multiply(logits, x_TD.narrow(0, begin, count));
    use(begin, logits);
  }
}

/// (softmax − onehot(target)) · dnll in `type`, what the products read, of the tokens from `begin` on. Float32 takes
/// the logits' memory; the GPU writes bfloat16 at once.
Tensor logits_gradient(const Tensor& logits, int64_t begin, const Tensor& targets_T, const Tensor& log_sum_T,
                       const Tensor& dnll_T, torch::ScalarType type) {
  const bool apart = logits.is_cuda() && type == torch::kBFloat16;
  const Tensor dlogits = apart ? torch::empty(logits.sizes(), logits.options().dtype(type)) : logits;
  run_kernel(logits, MEGALODON_KERNELS(cross_entropy_backward),
             {.logits = logits.data_ptr<float>(),
              .targets = targets_T.data_ptr<int64_t>() + begin,
              .log_sum = log_sum_T.data_ptr<float>() + begin,
              .dnll = dnll_T.data_ptr<float>() + begin,
              .dlogits = dlogits.data_ptr(),
              .dlogits_type = number_type(dlogits),
              .rows = logits.size(0),
              .vocabulary = logits.size(1)});
  return dlogits.to(type);
}

class LinearCrossEntropyFunction : public torch::autograd::Function<LinearCrossEntropyFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x_TD, const Tensor& w_VD,
                        const Tensor& targets_T, Precision precision, const PackedWeightPtr& packed,
                        bool differentiated) {
    const Tensor nll_T = torch::empty({x_TD.size(0)}, x_TD.options().dtype(torch::kFloat32));
    const Tensor log_sum_T = torch::empty_like(nll_T);
    const Tensor x = x_TD.to(product_type(precision)).contiguous();
    const PackedMatrix w_DV = packed->for_forward(w_VD, precision, differentiated);
    for_each_block(x, w_DV, w_VD.size(0), [&](int64_t begin, const Tensor& logits) {
      run_kernel(logits, MEGALODON_KERNELS(cross_entropy_forward),
                 {.logits = logits.data_ptr<float>(),
                  .targets = targets_T.data_ptr<int64_t>() + begin,
                  .nll = nll_T.data_ptr<float>() + begin,
                  .log_sum = log_sum_T.data_ptr<float>() + begin,
                  .rows = logits.size(0),
                  .vocabulary = logits.size(1)});
    });
    context->save_for_backward({x, w_VD, targets_T, log_sum_T});
    context->saved_data["packed"] = torch::IValue::make_capsule(packed);
    context->saved_data["precision"] = static_cast<int64_t>(precision);
    context->saved_data["x_type"] = static_cast<int64_t>(x_TD.scalar_type());
    return nll_T;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& gradients) {
    refuse_second_derivatives("linear_cross_entropy");
    const auto saved = context->get_saved_variables();
    const Tensor &x_TD = saved[0], &w_VD = saved[1], &targets_T = saved[2], &log_sum_T = saved[3];
    const auto packed = c10::static_intrusive_pointer_cast<PackedWeight>(context->saved_data["packed"].toCapsule());
    const auto precision = static_cast<Precision>(context->saved_data["precision"].toInt());
    const auto x_type = static_cast<torch::ScalarType>(context->saved_data["x_type"].toInt());
    const Tensor dnll_T = gradients[0].contiguous();
    Tensor dx_TD, dw_VD;
    PackedMatrix plain;
    if (context->needs_input_grad(0)) {
      dx_TD = torch::empty(x_TD.sizes(), x_TD.options().dtype(x_type));
      plain = packed->for_backward(w_VD, precision);
    }
    if (context->needs_input_grad(1)) {
      dw_VD = torch::empty(w_VD.sizes(), w_VD.options().dtype(torch::kFloat32));  // the first block sets it
      if (x_TD.size(0) == 0) dw_VD.zero_();
    }
    const auto backward_block = [&](int64_t begin, const Tensor& logits) {
      const int64_t count = logits.size(0);
      const Tensor dlogits = logits_gradient(logits, begin, targets_T, log_sum_T, dnll_T, x_TD.scalar_type());
      if (dx_TD.defined()) plain.multiply(dx_TD.narrow(0, begin, count), dlogits);
      if (dw_VD.defined()) weight_gradient(dw_VD, {}, dlogits, x_TD.narrow(0, begin, count), /*accumulate=*/begin > 0);
    };
    for_each_block(x_TD, packed->for_forward(w_VD, precision, true), w_VD.size(0), backward_block);
    return {dx_TD, dw_VD.defined() ? dw_VD.to(w_VD.scalar_type()) : dw_VD, Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

/// Of the CPU's: looking for them on a GPU would mean to wait for it, and its kernel makes such a loss NaN.
void check_targets(const Tensor& targets, int64_t vocabulary) {
  if (!targets.is_cpu()) return;
  const Tensor bad = targets.ne(kIgnoredTarget).logical_and(targets.lt(0).logical_or(targets.ge(vocabulary)));
  if (!bad.any().item<bool>()) return;
  const Tensor position = bad.nonzero()[0].cpu();
  std::string index;
  for (int64_t i = 0; i < position.numel(); ++i)
    index += fmt::format("{}{}", i == 0 ? "" : ", ", position[i].item<int64_t>());
  fail("[linear_cross_entropy] targets must be in [0, {}) or {} (ignored), got {} at [{}]", vocabulary, kIgnoredTarget,
       targets.masked_select(bad)[0].item<int64_t>(), index);
}

void check_inputs(const Tensor& x, const Tensor& w, const Tensor& targets) {
  check(w.dim() == 2 && w.size(0) > 0, "[linear_cross_entropy] weight must be [V, D] with V > 0, got {}",
        c10::str(w.sizes()));
  check(x.dim() >= 1 && x.size(-1) == w.size(1),
        "[linear_cross_entropy] the last axis of x must be the weight's D = {}, got {}", w.size(1),
        c10::str(x.sizes()));
  check(x.is_floating_point() && x.scalar_type() == w.scalar_type(),
        "[linear_cross_entropy] x and weight must be of one floating dtype, got {} and {}", toString(x.scalar_type()),
        toString(w.scalar_type()));
  check(targets.scalar_type() == torch::kInt64, "[linear_cross_entropy] targets must be int64, got {}",
        toString(targets.scalar_type()));
  check(w.device() == x.device() && targets.device() == x.device(),
        "[linear_cross_entropy] weight and targets must be on {} like x, got {} and {}", x.device().str(),
        w.device().str(), targets.device().str());
  check(targets.sizes() == x.sizes().slice(0, x.dim() - 1),
        "[linear_cross_entropy] targets must have x's shape without its last axis: x {}, targets {}",
        c10::str(x.sizes()), c10::str(targets.sizes()));
  check_targets(targets, w.size(0));
}

}  // namespace

Tensor linear_cross_entropy(const Tensor& x_BLD, const Tensor& w_VD, const Tensor& targets_BL, Precision precision,
                            const PackedWeightPtr& packed) {
  check_inputs(x_BLD, w_VD, targets_BL);
  if (!use_kernel_of_any_type(x_BLD)) {
    const bool low = precision == Precision::kBfloat16 && x_BLD.scalar_type() == torch::kFloat32;
    const auto type = low ? torch::kBFloat16 : x_BLD.scalar_type();
    return ref::linear_cross_entropy(x_BLD.to(type), (packed ? packed->numbers(w_VD) : w_VD).to(type), targets_BL);
  }
  const int64_t tokens = targets_BL.numel();
  const Tensor nll_T = LinearCrossEntropyFunction::apply(
      x_BLD.reshape({tokens, w_VD.size(1)}), w_VD, targets_BL.reshape({tokens}).contiguous(),
      x_BLD.scalar_type() == torch::kBFloat16 ? Precision::kBfloat16 : precision,
      packed ? packed : c10::make_intrusive<PackedWeight>(), is_differentiated({x_BLD, w_VD}));
  return nll_T.view(targets_BL.sizes());
}

TORCH_LIBRARY_FRAGMENT(megalodon, m) {
  m.def("linear_cross_entropy(Tensor x, Tensor weight, Tensor targets) -> Tensor",
        [](const Tensor& x, const Tensor& weight, const Tensor& targets) {
          return linear_cross_entropy(x, weight, targets);
        });
}

}  // namespace megalodon::ops
