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
  explicit Rotation(torch::Device device) : device_(device) {}

  const FixedMatrix& next(const Which& which) {
    if (copies_.empty() || which != which_) fill(which);
    return copies_[turn_++ % copies_.size()];
  }

 private:
  void fill(const Which& which) {
    constexpr int64_t kBytes = 256 << 20;
    which_ = which;
    copies_ = {fix_matrix(normal({which.O, which.I}, torch::kCPU), which.type).to(device_)};
    const Tensor bytes = copies_[0].bytes();
    while (static_cast<int64_t>(copies_.size()) * bytes.numel() < kBytes)
      copies_.emplace_back(which.type, which.O, which.I, bytes.clone());
  }

  torch::Device device_;
  Which which_ = {};
  std::vector<FixedMatrix> copies_;
  size_t turn_ = 0;
};

std::vector<Case> fixed_matrix_cases(torch::Device device) {
  using Sizes = std::vector<std::pair<int64_t, int64_t>>;
  const Sizes sizes =
      device.is_cuda() ? Sizes{{4864, 2048}, {32000, 2048}} : Sizes{{2560, 1024}, {1024, 2048}, {32000, 1024}};
  const auto matrices = std::make_shared<Rotation>(device);
  std::vector<Operator> operators;
  for (const auto& [O, I] : sizes)
    for (const FixedType type : {FixedType::kFloat32, FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4})
      for (const int64_t M : {1, 16, 2048}) {
        const Which which = {O, I, type};
        const FixedView view = {type, O, I, nullptr};
        // Products of a GPU in a row, as in a model: to wait for one takes longer than the product.
        const int turns = device.is_cuda() && M <= kFewRows ? 32 : 1;
        const auto repeat = [=](const Tensors& t) {
          for (int turn = 1; turn < turns; ++turn) fixed_linear(t[0], matrices->next(which));
          return fixed_linear(t[0], matrices->next(which));
        };
        operators.push_back(
            {.name = "fixed_matrix",
             .shape = fmt::format("M={} O={} I={}, {}{}", M, O, I, name_of(type),
                                  turns > 1 ? fmt::format(" x {}", turns) : ""),
             .inputs = {normal({M, I}, device)},
             .checked = {normal({std::min<int64_t>(M, 64), I}, device)},
             .kernel = repeat,
             .reference = [=](const Tensors& t) { return ref::fixed_linear(t[0], matrices->next(which)); },
             .forward = {.bytes = M <= kFewRows ? static_cast<double>(turns * view.blocks() * view.block_bytes()) : 0,
                         .flops = 2.0 * static_cast<double>(turns * M * O * I)},
             .tolerance = type == FixedType::kFloat32 ? 1e-5 : 2e-2});
      }
  return cases(operators, device);
}

[[maybe_unused]] const bool fixed_matrix_added = add_cases("fixed_matrix", fixed_matrix_cases);

}  // namespace
}  // namespace megalodon::ops::bench
