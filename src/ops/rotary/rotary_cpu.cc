// Two passes: a table of cosines and sines (rotary_table.h), then the rotation of all heads.
#include "ops/rotary/rotary_kernel.h"

#include "ops/rotary/rotary_table.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "ops/rotary/rotary_cpu.cc"
#include "hwy/foreach_target.h"  // must come before highway.h: a block of its own

#include "hwy/highway.h"
#include "ops/rotary/rotate-inl.h"

HWY_BEFORE_NAMESPACE();
namespace megalodon::ops::HWY_NAMESPACE {

template <class T>
void token_of_type(const RotaryArgs& args, int64_t token, const float* cosine, const float* sine) {
  const int64_t size = args.heads * args.head_dim;
  const T* x = static_cast<const T*>(args.x) + token * size;
  T* y = static_cast<T*>(args.y) + token * size;
  for (int64_t at = 0; at < size; at += args.head_dim) rotate_pairs(x + at, cosine, sine, args.head_dim / 2, y + at);
}

/// One token: all heads have the same row of the table.
void rotate_token(const RotaryArgs& args, int64_t token, const float* cosine, const float* sine) {
  if (args.type == NumberType::kFloat32)
    token_of_type<float>(args, token, cosine, sine);
  else
    token_of_type<Bfloat16>(args, token, cosine, sine);
}

}  // namespace megalodon::ops::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace megalodon::ops {
namespace {

HWY_EXPORT(rotate_token);

}  // namespace

void rotary_cpu(const RotaryArgs& args) {
  const RotaryTable table(args.position, args.tokens, args.frequencies, args.head_dim / 2, args.inverse);
  for_items(args.tokens, args.heads * args.head_dim, [&](int64_t token) {
    HWY_DYNAMIC_DISPATCH(rotate_token)(args, token, table.cosine(token), table.sine(token));
  });
}

}  // namespace megalodon::ops
#endif  // HWY_ONCE
