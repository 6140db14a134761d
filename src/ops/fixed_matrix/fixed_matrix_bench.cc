#include "ops/fixed_matrix/fixed_matrix.h"

#include "ops/bench.h"

namespace megalodon::ops::bench {
namespace {

/// Copies of one matrix, in turn, as many as no cache holds: a model's layers are not in it either.
class Rotation {
 public:
  Rotation(const Tensor& w, FixedType type) {
    constexpr int64_t kBytes = 256 << 20;
    const FixedMatrix first = fix_matrix(w, type);
    do {
      const Tensor bytes = first.bytes().clone();
      copies_.emplace_back(type, first.outputs(), first.inputs(), bytes);
    } while (static_cast<int64_t>(copies_.size()) * first.bytes().numel() < kBytes);
  }
  const FixedMatrix& next() { return copies_[turn_++ % copies_.size()]; }

 private:
  std::vector<FixedMatrix> copies_;
  size_t turn_ = 0;
};

std::vector<Case> fixed_matrix_cases(torch::Device device) {
  if (!device.is_cpu()) return {};
  struct Sizes {
    int64_t out, in;
  };
  std::vector<Case> list;
  for (const auto& [O, I] : std::vector<Sizes>{{2560, 1024}, {1024, 2048}, {32000, 1024}})
    for (const FixedType type : {FixedType::kFloat32, FixedType::kBfloat16, FixedType::kQ8, FixedType::kQ4}) {
      const auto matrices = std::make_shared<Rotation>(normal({O, I}, device), type);
      for (const int64_t M : {1, 16, 2048}) {
        const double flops = 2.0 * static_cast<double>(M * O * I);
        const auto bytes = static_cast<double>(matrices->next().bytes().numel());
        const std::vector<Case> some =
            cases({{.name = "fixed_matrix",
                    .shape = fmt::format("M={} O={} I={}, {}", M, O, I, name_of(type)),
                    .inputs = {normal({M, I}, device)},
                    .checked = {normal({std::min<int64_t>(M, 64), I}, device)},
                    .kernel = [matrices](const Tensors& t) { return fixed_linear(t[0], matrices->next()); },
                    .reference = [matrices](const Tensors& t) { return ref::fixed_linear(t[0], matrices->next()); },
                    .forward = {.bytes = M <= kFewRows ? bytes : 0, .flops = flops},
                    .tolerance = type == FixedType::kFloat32 ? 1e-5 : 2e-2}},
                  device);
        list.insert(list.end(), some.begin(), some.end());
      }
    }
  return list;
}

[[maybe_unused]] const bool fixed_matrix_added = add_cases("fixed_matrix", fixed_matrix_cases);

}  // namespace
}  // namespace megalodon::ops::bench
