#include "ops/fixed_matrix/fixed_matrix.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

struct Which {
  int64_t O, I;
  FixedType type;
  bool operator==(const Which&) const = default;
};

/// Copies of one matrix, in turn, as many as no cache holds: a model's layers are not in it either. Of one case's
/// matrix at a time.
class Rotation {
 public:
  const FixedMatrix& next(const Which& which) {
    if (copies_.empty() || which != which_) fill(which);
    return copies_[turn_++ % copies_.size()];
  }

 private:
  void fill(const Which& which) {
    constexpr int64_t kBytes = 256 << 20;
    which_ = which;
    copies_ = {fix_matrix(normal({which.O, which.I}, torch::kCPU), which.type)};
    const Tensor bytes = copies_[0].bytes();
    while (static_cast<int64_t>(copies_.size()) * bytes.numel() < kBytes)
      copies_.emplace_back(which.type, which.O, which.I, bytes.clone());
  }

  Which which_ = {};
  std::vector<FixedMatrix> copies_;
  size_t turn_ = 0;
};

std::vector<Case> fixed_matrix_cases(torch::Device device) {
  if (!device.is_cpu()) return {};
  const auto matrices = std::make_shared<Rotation>();
  std::vector<Operator> operators;
  for (const auto& [O, I] : std::vector<std::pair<int64_t, int64_t>>{{2560, 1024}, {1024, 2048}, {32000, 1024}})
    for (const FixedType type : {FixedType::kFloat32, FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4})
      for (const int64_t M : {1, 16, 2048}) {
        const Which which = {O, I, type};
        const FixedView view = {type, O, I, nullptr};
        operators.push_back(
            {.name = "fixed_matrix",
             .shape = fmt::format("M={} O={} I={}, {}", M, O, I, name_of(type)),
             .inputs = {normal({M, I}, device)},
             .checked = {normal({std::min<int64_t>(M, 64), I}, device)},
             .kernel = [=](const Tensors& t) { return fixed_linear(t[0], matrices->next(which)); },
             .reference = [=](const Tensors& t) { return ref::fixed_linear(t[0], matrices->next(which)); },
             .forward = {.bytes = M <= kFewRows ? static_cast<double>(view.blocks() * view.block_bytes()) : 0,
                         .flops = 2.0 * static_cast<double>(M * O * I)},
             .tolerance = type == FixedType::kFloat32 ? 1e-5 : 2e-2});
      }
  return cases(operators, device);
}

[[maybe_unused]] const bool fixed_matrix_added = add_cases("fixed_matrix", fixed_matrix_cases);

}  // namespace
}  // namespace megalodon::ops::bench
