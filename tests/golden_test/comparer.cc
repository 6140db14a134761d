#include "comparer.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace megalodon::golden {
namespace {

/// "[1, 0, 7]" of a flat index; nothing for a scalar.
std::string index_text(int64_t flat, torch::IntArrayRef sizes) {
  std::vector<int64_t> index(sizes.size());
  for (size_t axis = sizes.size(); axis-- > 0;) {
    index[axis] = flat % sizes[axis];
    flat /= sizes[axis];
  }
  return index.empty() ? "" : fmt::format("[{}]", fmt::join(index, ", "));
}

std::string shape_text(const Tensor& tensor) {
  return tensor.defined() ? fmt::format("[{}]", fmt::join(tensor.sizes(), ", ")) : "nothing";
}

Tensor flat_double(const Tensor& tensor) {
  return tensor.detach().to(torch::kCPU, torch::kFloat64).reshape({-1});
}

}  // namespace

bool Comparer::same_shape(const std::string& name, const Tensor& got, const Tensor& expected) {
  names_.insert(name);
  if (got.defined() && got.sizes() == expected.sizes()) return true;
  fail(fmt::format("{} got shape {}, expected {}", name, shape_text(got), shape_text(expected)));
  return false;
}

void Comparer::near(const std::string& name, const Tensor& got, const Tensor& expected, Tolerance tolerance) {
  if (!same_shape(name, got, expected) || expected.numel() == 0) return;
  const Tensor a = flat_double(got), e = flat_double(expected), difference = (a - e).abs();
  const double bound = std::max(tolerance.relative * e.abs().max().item<double>(), tolerance.absolute);
  // NaN, in got or expected, counts as an infinite difference.
  const Tensor finite = torch::nan_to_num(difference, std::numeric_limits<double>::infinity());
  const auto worst = finite.argmax().item<int64_t>();
  const double largest = finite[worst].item<double>();
  const double ratio = largest == 0 ? 0 : std::min(largest / bound, kNotNumeric);
  if (largest > bound || !std::isfinite(bound)) {
    problems_.push_back(
        {fmt::format("{}{} got {:.9g}, expected {:.9g}, difference {:.3g}, tolerance {:.3g}", name,
                     index_text(worst, got.sizes()), a[worst].item<double>(), e[worst].item<double>(), largest, bound),
         ratio});
  } else {
    auto& nearest = nearest_[name.substr(0, name.find('.'))];
    nearest = std::max(nearest, {ratio, name});
  }
}

void Comparer::equal(const std::string& name, const Tensor& got, const Tensor& expected) {
  if (!same_shape(name, got, expected) || expected.numel() == 0) return;
  const auto flat = [](const Tensor& t) { return t.detach().to(torch::kCPU).reshape({-1}); };
  const Tensor a = flat(got), e = flat(expected);
  const Tensor different = a != e;
  if (!different.any().item<bool>()) return;
  const auto first = different.to(torch::kInt64).argmax().item<int64_t>();
  fail(fmt::format("{}{} got {}, expected {} exactly", name, index_text(first, got.sizes()), a[first].item<double>(),
                   e[first].item<double>()));
}

void Comparer::inform(const std::string& name, const Tensor& got, const Tensor& expected) {
  if (!same_shape(name, got, expected) || expected.numel() == 0) return;
  const Tensor difference = (flat_double(got) - flat_double(expected)).abs();
  const double mean = difference.mean().item<double>(), largest = difference.max().item<double>();
  note(fmt::format("{}: difference {:.3g} at most, {:.3g} on average (informative)", name, largest, mean));
  if (!std::isfinite(mean)) fail(fmt::format("{} is not finite", name));
}

void Comparer::require(bool condition, const std::string& name, const std::string& problem) {
  names_.insert(name);
  if (!condition) fail(fmt::format("{} {}", name, problem));
}

std::string Comparer::summary() const {
  if (passed()) {
    std::string text = fmt::format("{} compared", count());
    for (const auto& [kind, nearest] : nearest_)
      text += fmt::format(", {} at {:.2g} of its tolerance", nearest.second, nearest.first);
    return text;
  }
  const auto worst = std::max_element(problems_.begin(), problems_.end(),
                                      [](const Problem& a, const Problem& b) { return a.severity < b.severity; });
  return problems_.size() == 1 ? worst->text : fmt::format("{} (and {} more)", worst->text, problems_.size() - 1);
}

}  // namespace megalodon::golden
