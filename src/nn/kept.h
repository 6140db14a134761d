// What is computed from parameters alone, from call to call.
#pragma once

#include <vector>

#include "base/compat.h"

namespace megalodon::nn {

/// A value where no gradient is asked for: a dozen passes over small tensors that every step of decoding would repeat.
/// Computed again when a parameter has been written to (see ops::PackedWeight on versions).
template <class Value>
class Kept {
 public:
  /// make(), a pure function of the parameters, or what it gave before. Undefined parameters are allowed.
  template <class Make>
  Value of(const std::vector<Tensor>& parameters, const Make& make) {
    if (torch::GradMode::is_enabled()) return make();
    std::vector<Source> sources;
    for (const Tensor& t : parameters)
      sources.push_back(t.defined() ? Source{t.data_ptr(), static_cast<uint32_t>(t._version())} : Source());
    if (sources != sources_) {
      kept_ = make();
      sources_ = std::move(sources);
    }
    return kept_;
  }

 private:
  struct Source {
    const void* data = nullptr;
    uint32_t version = 0;
    bool operator==(const Source&) const = default;
  };
  std::vector<Source> sources_;
  Value kept_;
};

}  // namespace megalodon::nn
