#include "nn/linear.h"

#include <cmath>

#include "nn/parameters.h"

namespace megalodon::nn {

Linear::Linear(torch::nn::Module& module, const std::string& path, int64_t in, int64_t out, bool with_bias)
    : weight(register_at(module, path + ".weight", {out, in})) {
  if (with_bias) bias = register_at(module, path + ".bias", {out});
}

void Linear::fix(ops::FixedType type) {
  packed->fix(ops::fix_matrix(weight.detach().to(torch::kFloat32).contiguous(), type));
  if (!shared_) weight.set_data(torch::full({1, 1}, NAN).expand(weight.sizes()));  // whoever reads it notices
}

}  // namespace megalodon::nn
