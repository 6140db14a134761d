#include "nn/linear.h"

#include <cmath>

#include "base/check.h"
#include "base/philox.h"
#include "nn/init.h"
#include "nn/parameters.h"

namespace megalodon::nn {

Linear::Linear(torch::nn::Module& module, const std::string& path, int64_t in, int64_t out, bool with_bias)
    : weight(register_at(module, path + ".weight", {out, in})) {
  if (with_bias) bias = register_at(module, path + ".bias", {out});
}

void Linear::fix(ops::FixedMatrix matrix) {
  check(matrix.outputs() == weight.size(0) && matrix.inputs() == weight.size(1),
        "[linear] expected a matrix [{},{}], got [{},{}]", weight.size(0), weight.size(1), matrix.outputs(),
        matrix.inputs());
  if (!shared_)  // whoever reads it notices
    weight.set_data(torch::full({1, 1}, NAN, matrix.device()).expand(weight.sizes()));
  packed->fix(std::move(matrix));
}

void init_linears(const std::vector<Linear*>& layers, const std::string& mode, uint64_t key) {
  torch::NoGradGuard no_grad;
  uint64_t stream = 0;
  for (const Linear* layer : layers) {
    init_linear(layer->weight, mode, derive_key(key, stream++));
    if (layer->bias.defined()) layer->bias.zero_();
  }
}

}  // namespace megalodon::nn
