#include "nn/linear.h"

#include "nn/parameters.h"

namespace megalodon::nn {

Linear::Linear(torch::nn::Module& module, const std::string& path, int64_t in, int64_t out, bool with_bias)
    : weight(register_at(module, path + ".weight", {out, in})) {
  if (with_bias) bias = register_at(module, path + ".bias", {out});
}

}  // namespace megalodon::nn
