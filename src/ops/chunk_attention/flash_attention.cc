// PyTorch's flash attention of every chunk, with gradients that are the same bits each time.
#include "ops/chunk_attention/flash_attention.h"

#include <algorithm>
#include <mutex>

#include "ops/registration.h"

namespace megalodon::ops {
namespace {

/// Else the gradient of q is added up in whatever order blocks end in, and a run that was resumed would not be the one
/// that was not. A setting of the whole process, so one thread at a time, and for no longer than it takes to queue the
/// work: other operators refuse what they cannot do in one order.
class DeterministicAlgorithms {
 public:
  DeterministicAlgorithms() {
    at::globalContext().setDeterministicAlgorithms(true, /*warn_only=*/false);  // with warnings only it is not
    set_fills_new_memory(false);
  }
  DeterministicAlgorithms(const DeterministicAlgorithms&) = delete;
  DeterministicAlgorithms& operator=(const DeterministicAlgorithms&) = delete;
  ~DeterministicAlgorithms() {
    at::globalContext().setDeterministicAlgorithms(before_, warned_only_);
    set_fills_new_memory(filled_);
  }

 private:
  static std::recursive_mutex& mutex() {
    static std::recursive_mutex one;
    return one;
  }
  std::lock_guard<std::recursive_mutex> lock_{mutex()};
  bool before_ = at::globalContext().deterministicAlgorithms();
  bool warned_only_ = at::globalContext().deterministicAlgorithmsWarnOnly();
  bool filled_ = fills_new_memory();
};

/// PyTorch asks for the setting when it runs the backward pass, so that runs in here, on a graph of its own.
class FlashAttentionFunction : public torch::autograd::Function<FlashAttentionFunction> {
 public:
  static Tensor forward(torch::autograd::AutogradContext* ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                        double scale, bool causal) {
    const torch::AutoGradMode graph(true);
    torch::autograd::variable_list own;
    for (const Tensor& t : {q, k, v}) own.push_back(t.detach().requires_grad_());
    own.push_back(flash_attention_of_torch(own[0], own[1], own[2], scale, causal));
    ctx->save_for_backward(own);
    return own[3].detach();
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 const torch::autograd::variable_list& grads) {
    refuse_second_derivatives("chunk_attention");
    const auto own = ctx->get_saved_variables();
    const DeterministicAlgorithms deterministic;
    // Kept for another backward pass; it goes with the context.
    auto out = torch::autograd::grad({own[3]}, {own[0], own[1], own[2]}, {grads[0]}, /*retain_graph=*/true);
    out.resize(5);  // the settings have no gradient
    return out;
  }
};

/// Of rows that are one chunk, or less.
Tensor attend(const Tensor& q_BLHK, const Tensor& k_BJHK, const Tensor& v_BJHV, double scale, bool causal) {
  const auto by_head = [](const Tensor& t) { return t.transpose(1, 2); };
  const Tensor q = by_head(q_BLHK), k = by_head(k_BJHK), v = by_head(v_BJHV);
  return by_head(is_differentiated({q, k, v}) ? FlashAttentionFunction::apply(q, k, v, scale, causal)
                                              : flash_attention_of_torch(q, k, v, scale, causal));
}

}  // namespace

bool flash_attention_serves(const Tensor& q_BLHK, const Tensor& v_BLHV, const ChunkAttentionOptions& o) {
  constexpr int64_t kMostRows = 65535;  // of a launch: batch times chunks
  const int64_t L = q_BLHK.size(1), K = q_BLHK.size(3), chunks = o.chunk_size > 0 ? (L - 1) / o.chunk_size + 1 : 1;
  const bool narrow = K == v_BLHV.size(3) && K <= 256 && K % 8 == 0;
  const bool begins = !o.prior_k_BTHK.defined() || o.prior_k_BTHK.size(1) == 0;
  const bool whole = begins && !o.position_B.defined() && !o.starts_BL.defined();
  const int64_t longest = o.chunk_size > 0 ? std::min(o.chunk_size, L) : L;
  return narrow && whole && o.dropout == 0 && (o.window == 0 || o.window >= longest) &&
         q_BLHK.size(0) * chunks <= kMostRows;
}

Tensor flash_attention(const Tensor& q_BLHK, const Tensor& k_BJHK, const Tensor& v_BJHV, int64_t chunk_size,
                       double scale, bool causal) {
  const int64_t L = q_BLHK.size(1);
  if (chunk_size == 0 || L <= chunk_size) return attend(q_BLHK, k_BJHK, v_BJHV, scale, causal);
  // The whole chunks as rows of their own, then what is left.
  const int64_t whole = L / chunk_size * chunk_size;
  const auto chunks = [&](const Tensor& t) {
    return t.narrow(1, 0, whole).reshape({-1, chunk_size, t.size(2), t.size(3)});
  };
  const Tensor y = attend(chunks(q_BLHK), chunks(k_BJHK), chunks(v_BJHV), scale, causal)
                       .reshape({v_BJHV.size(0), whole, v_BJHV.size(2), v_BJHV.size(3)});
  if (whole == L) return y;
  const auto rest = [&](const Tensor& t) { return t.narrow(1, whole, L - whole); };
  return torch::cat({y, attend(rest(q_BLHK), rest(k_BJHK), rest(v_BJHV), scale, causal)}, 1);
}

std::optional<Tensor> try_flash_attention(const Tensor& q_BLHK, const Tensor& k_BJHK, const Tensor& v_BJHV,
                                          const ChunkAttentionOptions& options, bool causal) {
  const bool is_bfloat16 = options.precision == Precision::kBfloat16 || q_BLHK.scalar_type() == torch::kBFloat16;
  if (!kHasFlashAttention || !q_BLHK.is_cuda() || !use_kernel_of_any_type(q_BLHK) || !is_bfloat16 ||
      !flash_attention_serves(q_BLHK, v_BJHV, options))
    return {};
  const auto narrow = [](const Tensor& t) { return t.to(torch::kBFloat16); };
  return flash_attention(narrow(q_BLHK), narrow(k_BJHK), narrow(v_BJHV), options.chunk_size, options.scale, causal)
      .to(v_BJHV.scalar_type());
}

}  // namespace megalodon::ops
